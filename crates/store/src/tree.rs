//! Directories as objects.

use crate::codec::{Reader, Writer};
use crate::object::{content_hasher, id_of};
use crate::{DecodeError, Entry, FileKind, Ino, ObjectId, ObjectKind};

const VERSION: u8 = 1;

/// The longest file name, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// The largest encoded tree: positions inside it are kept as `u32`, and SQLite stores no larger
/// value by default (`SQLITE_MAX_LENGTH`).
const MAX_ENCODED: usize = 900_000_000;

/// The least an entry takes: name length, one byte of name, kind, ino, mode, uid, gid, nlink, two
/// times of two numbers, the count of attributes.
const LEAST_ENTRY: usize = 13;

/// Refuses what cannot be a name in a directory: empty, `.`, `..`, more than 255 bytes, `/`, NUL.
pub fn check_name(name: &[u8]) -> Result<(), DecodeError> {
    let bad = name.is_empty()
        || name.len() > MAX_NAME
        || name == b"."
        || name == b".."
        || name.iter().any(|byte| matches!(byte, b'/' | 0));
    if bad { Err(DecodeError::Name) } else { Ok(()) }
}

/// A directory, decoded as far as is needed to find a name: it holds the encoded bytes and four
/// more for each entry, and builds entries when asked for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    bytes: Box<[u8]>,
    /// Where each entry begins, in the order of their names.
    starts: Box<[u32]>,
}

impl Tree {
    /// Checks all of `bytes`; anything that [`TreeBuilder`] would not have written is refused.
    pub fn decode(bytes: impl Into<Box<[u8]>>) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_ENCODED {
            return Err(DecodeError::Range("the size of a tree"));
        }
        let starts = index(&bytes)?;
        Ok(Self { bytes, starts })
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The size of its encoding, in bytes.
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// What it keeps in memory, in bytes: what a cache should count.
    pub fn memory(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.starts) + size_of::<Self>()
    }

    /// The entry of that name.
    pub fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let found = self.starts.binary_search_by(|&start| self.name_at(start).cmp(name)).ok()?;
        self.entry_at(*self.starts.get(found)?).map(|(_, entry)| entry)
    }

    /// The entry at `position` in the order of names.
    pub fn get(&self, position: usize) -> Option<(&[u8], Entry)> {
        self.entry_at(*self.starts.get(position)?)
    }

    /// All entries, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], Entry)> {
        // Decoding was checked as a whole, so no entry is left out here.
        Exact { tree: self, next: 0 }
    }

    /// Names, numbers and kinds, without decoding the rest.
    pub fn iter_names(&self) -> impl Iterator<Item = (&[u8], Ino, FileKind)> {
        self.starts.iter().filter_map(|&start| {
            let (name, mut input) = self.split_at(start)?;
            let (kind, ino) = Entry::read_head(&mut input).ok()?;
            Some((name, ino, kind))
        })
    }

    /// The first entry with that number; a hard-linked file may have several.
    pub fn find_ino(&self, ino: Ino) -> Option<(&[u8], Entry)> {
        let position = self.iter_names().position(|(_, number, _)| number == ino)?;
        self.get(position)
    }

    fn split_at(&self, start: u32) -> Option<(&[u8], Reader<'_>)> {
        let mut input = Reader::new(self.bytes.get(start as usize..)?);
        let name = input.bytes(MAX_NAME).ok()?;
        Some((name, input))
    }

    fn name_at(&self, start: u32) -> &[u8] {
        self.split_at(start).map_or(b"", |(name, _)| name)
    }

    fn entry_at(&self, start: u32) -> Option<(&[u8], Entry)> {
        let (name, mut input) = self.split_at(start)?;
        Some((name, Entry::read(&mut input).ok()?))
    }
}

struct Exact<'a> {
    tree: &'a Tree,
    next: usize,
}

impl<'a> Iterator for Exact<'a> {
    type Item = (&'a [u8], Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.tree.get(self.next)?;
        self.next += 1;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.tree.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Exact<'_> {}

fn index(bytes: &[u8]) -> Result<Box<[u32]>, DecodeError> {
    let mut input = Reader::new(bytes);
    match input.byte()? {
        VERSION => {}
        other => return Err(DecodeError::Version(other)),
    }
    let count = input.count(LEAST_ENTRY)?;
    let mut starts = Vec::with_capacity(count);
    let mut last: &[u8] = b"";
    for _ in 0..count {
        let start = bytes.len() - input.remaining();
        starts.push(u32::try_from(start).map_err(|_| DecodeError::Range("the size of a tree"))?);
        let name = input.bytes(MAX_NAME)?;
        check_name(name)?;
        // No name is empty, so the first is greater than the start value.
        if name <= last {
            return Err(DecodeError::Order("names"));
        }
        last = name;
        Entry::skip(&mut input)?;
    }
    input.finish()?;
    Ok(starts.into_boxed_slice())
}

/// A tree ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedTree {
    /// The object's bytes.
    pub bytes: Vec<u8>,
    /// The object's name.
    pub id: ObjectId,
    /// The content id: the same for all directories with equal content.
    pub digest: ObjectId,
}

/// Collects a directory's entries, in any order.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    entries: Vec<(Box<[u8]>, Entry)>,
}

impl TreeBuilder {
    /// A directory without entries.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds an entry. [`Self::finish`] refuses bad or doubled names.
    pub fn push(&mut self, name: &[u8], entry: Entry) {
        self.entries.push((name.into(), entry));
    }

    /// Orders, checks and encodes what was pushed.
    pub fn finish(mut self) -> Result<EncodedTree, DecodeError> {
        self.entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if self.entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(DecodeError::Order("names"));
        }
        let mut out = Writer::with_capacity(self.entries.len() * 112 + 8);
        let mut covered = Writer::new();
        let mut hasher = content_hasher();
        out.byte(VERSION);
        out.len(self.entries.len());
        for (name, entry) in &self.entries {
            check_name(name)?;
            out.bytes(name);
            entry.write(&mut out)?;
            covered.clear();
            covered.bytes(name);
            entry.write_for_digest(&mut covered)?;
            hasher.update(covered.as_slice());
        }
        let bytes = out.into_bytes();
        if bytes.len() > MAX_ENCODED {
            return Err(DecodeError::Range("the size of a tree"));
        }
        Ok(EncodedTree { id: ObjectKind::Tree.id(&bytes), digest: id_of(&hasher), bytes })
    }
}
