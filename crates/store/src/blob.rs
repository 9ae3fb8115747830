//! Reading and writing a file's bytes.

use crate::{Extent, ObjectId, StoreError};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// A blob opened for reading.
#[derive(Debug, Clone)]
pub enum BlobReader {
    /// A small blob: its bytes, verified.
    Inline(Arc<[u8]>),
    /// A large blob: the plain file that holds it.
    File(Arc<File>),
}

impl BlobReader {
    /// Reads at `offset` as pread(2) does: 0 at the end, possibly less than asked for.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        todo!()
    }
}

/// What a written blob came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenBlob {
    /// Its name.
    pub id: ObjectId,
    /// How many bytes it has.
    pub size: u64,
    /// Its hole list, when there were holes.
    pub holes: Option<ObjectId>,
    /// Whether the store did not have these bytes before.
    pub new: bool,
}

/// Takes a file's bytes front to back, hashes and keeps them in one pass.
pub struct BlobWriter<'a> {
    store: &'a crate::Store,
}

impl BlobWriter<'_> {
    /// The next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        todo!()
    }

    /// The next `len` bytes are a hole.
    pub fn hole(&mut self, len: u64) -> Result<(), StoreError> {
        todo!()
    }

    /// Everything is written.
    pub fn finish(self) -> Result<WrittenBlob, StoreError> {
        todo!()
    }
}
