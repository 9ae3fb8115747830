//! Snapshots as objects.

use crate::codec::{Reader, Writer};
use crate::{DecodeError, Entry, FileKind, ObjectId, Timestamp};

const VERSION: u8 = 1;
const MAX_PARENTS: usize = 64;
const MAX_MESSAGE: usize = 1 << 20;

/// An immutable tree with parents, a time and a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The root directory; [`FileKind::Directory`].
    pub root: Entry,
    /// The snapshots it came from, at most 64.
    pub parents: Vec<ObjectId>,
    /// When it was made.
    pub time: Timestamp,
    /// Why: any bytes, at most 1 MiB.
    pub message: Vec<u8>,
}

impl Snapshot {
    /// The canonical encoding.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = Writer::new();
        out.byte(VERSION);
        self.root.write(&mut out)?;
        out.len(self.parents.len());
        for parent in &self.parents {
            out.id(parent);
        }
        out.time(self.time)?;
        out.bytes(&self.message);
        Ok(out.into_bytes())
    }

    /// Reads what [`Self::encode`] made, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        match input.byte()? {
            VERSION => {}
            other => return Err(DecodeError::Version(other)),
        }
        let root = Entry::read(&mut input)?;
        let count = input.count(size_of::<ObjectId>())?;
        if count > MAX_PARENTS {
            return Err(DecodeError::Range("the number of parents"));
        }
        let parents = (0..count).map(|_| input.id()).collect::<Result<_, _>>()?;
        let time = input.time()?;
        let message = input.bytes(MAX_MESSAGE)?.to_vec();
        input.finish()?;
        let snapshot = Self { root, parents, time, message };
        snapshot.check()?;
        Ok(snapshot)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.root.kind() != FileKind::Directory {
            return Err(DecodeError::Range("the kind of the root"));
        }
        if self.parents.len() > MAX_PARENTS {
            return Err(DecodeError::Range("the number of parents"));
        }
        if self.message.len() > MAX_MESSAGE {
            return Err(DecodeError::Range("the length of a message"));
        }
        Ok(())
    }
}
