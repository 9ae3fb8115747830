//! Where nodes of the base stand: which directory has each number, as far as somebody has come upon it.
//!
//! The kernel names a node by its number, and goes on doing so when a worker dies. Its successor would have to read all
//! of the base to find one that nobody changed, while a caller waits. So what is learnt is kept in a memory file that
//! outlives the process ([`Parents::keep_in`]): nothing of it is read before it is asked for, whatever its size.
//!
//! The file holds tables, each twice the size of the one before; the last is being filled. An entry is two words,
//! directory and number, and the number is written last, so that one that was cut off by the death of the process is none.
//! Whoever uses an entry checks it against the base, so a wrong one costs a search.

use crate::sys::Words;
use foldhash::HashMap;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};
use selvedge_store::Ino;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Version of the memory file.
pub const FORMAT: u32 = 1;

/// The first word.
const MAGIC: u64 = u64::from_le_bytes(*b"SLVGPAR\x01");

/// Words before the first table. The second of them counts the entries of the last table.
const HEAD: usize = 512;
const COUNT: usize = 1;

/// Entries of the first table: a power of two.
const FIRST: usize = 1 << 12;

/// The most tables: 128 million entries.
const MOST: usize = 16;

/// Node → the directory that has it.
#[derive(Debug, Default)]
pub(crate) struct Parents {
    kept: Option<Kept>,
    /// Everything, or what the file has no room for.
    other: HashMap<Ino, Ino>,
}

#[derive(Debug)]
struct Kept {
    memory: File,
    head: Words,
    /// The last one is being filled.
    tables: Vec<Words>,
}

/// A memory file for [`Parents::keep_in`], which nobody can make shorter.
pub(crate) fn memory() -> io::Result<File> {
    let memory = memfd_create("selvedge-parents", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK)?;
    Ok(memory.into())
}

impl Parents {
    /// Keeps everything in `memory` from now on, and knows what is there already.
    ///
    /// # Errors
    /// When it is no such file, or the system gives no memory. Nothing has changed then.
    pub(crate) fn keep_in(&mut self, memory: File) -> io::Result<()> {
        let kept = Kept::open(memory)?;
        self.kept = Some(kept);
        let learnt = std::mem::take(&mut self.other);
        self.extend(learnt);
        Ok(())
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Ino> {
        let kept = self.kept.as_ref().and_then(|kept| kept.get(ino));
        kept.or_else(|| self.other.get(&ino).copied())
    }

    pub(crate) fn insert(&mut self, ino: Ino, parent: Ino) {
        if !self.kept.as_mut().is_some_and(|kept| kept.insert(ino, parent)) {
            self.other.insert(ino, parent);
        }
    }

    pub(crate) fn extend(&mut self, nodes: impl IntoIterator<Item = (Ino, Ino)>) {
        for (ino, parent) in nodes {
            self.insert(ino, parent);
        }
    }
}

impl Kept {
    fn open(memory: File) -> io::Result<Self> {
        // Reading a mapping of a file that was made shorter would end the process.
        if !fcntl_get_seals(&memory)?.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = memory.metadata()?.len();
        if length == 0 {
            ftruncate(&memory, bytes(HEAD))?;
        }
        let head = Words::map(&memory, 0, HEAD)?;
        if length == 0 {
            head.words()[0].store(MAGIC, Ordering::Relaxed);
        }
        if head.words()[0].load(Ordering::Relaxed) != MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut kept = Self { memory, head, tables: Vec::new() };
        while kept.tables.len() < MOST && bytes(begin(kept.tables.len() + 1)) <= length {
            let table = kept.map(kept.tables.len())?;
            kept.tables.push(table);
        }
        if kept.tables.is_empty() {
            kept.begin_table()?;
        }
        Ok(kept)
    }

    fn map(&self, number: usize) -> io::Result<Words> {
        Words::map(&self.memory, bytes(begin(number)), 2 * entries(number))
    }

    fn begin_table(&mut self) -> io::Result<()> {
        let number = self.tables.len();
        if number == MOST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        ftruncate(&self.memory, bytes(begin(number + 1)))?;
        let table = self.map(number)?;
        self.count().store(0, Ordering::Relaxed);
        self.tables.push(table);
        Ok(())
    }

    fn count(&self) -> &AtomicU64 {
        &self.head.words()[COUNT]
    }

    /// What the last table that knows the node says of it.
    fn get(&self, ino: Ino) -> Option<Ino> {
        self.tables.iter().rev().find_map(|table| match find(table.words(), ino) {
            Found::Entry([_, parent]) => Some(Ino(parent.load(Ordering::Relaxed))),
            Found::Free(_) | Found::Full => None,
        })
    }

    /// Whether there is room.
    fn insert(&mut self, ino: Ino, parent: Ino) -> bool {
        // No node has the number 0, which stands for a free entry.
        if ino.0 == 0 {
            return false;
        }
        if self.get(ino) == Some(parent) {
            return true;
        }
        let last = self.tables.len() - 1;
        if self.count().load(Ordering::Relaxed) >= entries(last) as u64 / 4 * 3 && self.begin_table().is_err()
        {
            return false;
        }
        let Some(table) = self.tables.last() else { return false };
        match find(table.words(), ino) {
            Found::Entry([_, known]) => known.store(parent.0, Ordering::Relaxed),
            Found::Free([number, directory]) => {
                directory.store(parent.0, Ordering::Relaxed);
                number.store(ino.0, Ordering::Release);
                self.count().fetch_add(1, Ordering::Relaxed);
            }
            Found::Full => return false,
        }
        true
    }
}

/// Where a table has a node, or has room for it.
enum Found<'a> {
    Entry(&'a [AtomicU64; 2]),
    Free(&'a [AtomicU64; 2]),
    Full,
}

fn find(table: &[AtomicU64], ino: Ino) -> Found<'_> {
    let (entries, _) = table.as_chunks::<2>();
    // Numbers that follow each other come to lie far apart (Fibonacci hashing).
    let spread = ino.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let first = usize::try_from(spread >> (u64::BITS - entries.len().ilog2())).unwrap_or(0);
    for entry in entries[first..].iter().chain(&entries[..first]) {
        match entry[0].load(Ordering::Acquire) {
            0 => return Found::Free(entry),
            number if number == ino.0 => return Found::Entry(entry),
            _ => {}
        }
    }
    Found::Full
}

/// Entries of a table.
const fn entries(number: usize) -> usize {
    FIRST << number
}

/// The word at which a table begins.
const fn begin(number: usize) -> usize {
    HEAD + 2 * (entries(number) - FIRST)
}

const fn bytes(words: usize) -> u64 {
    8 * words as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const MANY: u64 = 40_000;

    fn parent(ino: u64) -> Ino {
        Ino(ino / 100 + 1)
    }

    fn filled(memory: &File) -> Parents {
        let mut parents = Parents::default();
        parents.insert(Ino(1), parent(1));
        parents.keep_in(memory.try_clone().unwrap()).unwrap();
        parents.extend((2..MANY).map(|ino| (Ino(ino), parent(ino))));
        assert_eq!(parents.other, HashMap::default());
        parents
    }

    #[test]
    fn what_one_has_learnt_the_next_one_knows() {
        let memory = memory().unwrap();
        let mut before = filled(&memory);
        before.insert(Ino(7), Ino(99));
        for _ in 0..3 {
            // Nothing is kept twice.
            before.extend((8..MANY).map(|ino| (Ino(ino), parent(ino))));
        }
        let length = memory.metadata().unwrap().len();
        drop(before);
        let mut after = Parents::default();
        after.keep_in(memory.try_clone().unwrap()).unwrap();
        assert_eq!(after.get(Ino(7)), Some(Ino(99)));
        assert!((8..MANY).all(|ino| after.get(Ino(ino)) == Some(parent(ino))));
        assert_eq!((after.get(Ino(MANY)), after.get(Ino(0))), (None, None));
        after.insert(Ino(MANY), Ino(3));
        assert_eq!(after.get(Ino(MANY)), Some(Ino(3)));
        assert_eq!(memory.metadata().unwrap().len(), length);
    }

    #[test]
    fn what_is_damaged_is_unknown_or_wrong_and_never_a_panic() {
        let memory = memory().unwrap();
        drop(filled(&memory));
        let length = memory.metadata().unwrap().len();
        for at in (8..length).step_by(4093) {
            memory.write_all_at(&[0xFF; 64], at).unwrap();
        }
        let mut after = Parents::default();
        after.keep_in(memory.try_clone().unwrap()).unwrap();
        after.extend((2..2 * MANY).map(|ino| (Ino(ino), parent(ino))));
        assert!((2..2 * MANY).all(|ino| after.get(Ino(ino)) == Some(parent(ino))));
    }

    #[test]
    fn another_file_is_refused() {
        let other = memory().unwrap();
        other.write_all_at(&[1; 8192], 0).unwrap();
        assert!(Parents::default().keep_in(other).is_err());
        assert!(Parents::default().keep_in(tempfile::tempfile().unwrap()).is_err());
    }
}
