//! Which working files hold bytes that a loss of power could take.

use foldhash::HashMap;
use selvedge_store::Ino;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much a loss of power could take of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volatility {
    /// Nothing.
    Durable,
    /// All of it: nobody was ever told that any of it was durable.
    Fresh,
    /// What was written since some earlier content was durable.
    Changed,
}

/// A mark, as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

#[derive(Debug, Clone, Copy)]
struct Entry {
    mark: Mark,
    fresh: bool,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    entries: HashMap<Ino, Entry>,
}

/// Marks for files that were written and not synced since.
///
/// A write marks its file after the bytes are there and before it is answered. A sync looks at the mark first
/// and takes it away afterwards only if it is still the same, so no write can fall between the two.
#[derive(Debug, Default)]
pub(crate) struct Volatile {
    inner: Mutex<Inner>,
}

impl Volatile {
    /// The file has bytes that are not durable; `fresh` if it had no working file before.
    pub(crate) fn mark(&self, ino: Ino, fresh: bool) {
        let mut inner = self.inner();
        inner.last += 1;
        let mark = Mark(inner.last);
        inner.entries.entry(ino).and_modify(|entry| entry.mark = mark).or_insert(Entry { mark, fresh });
    }

    /// The file's mark, to be taken away after a sync that starts after this.
    pub(crate) fn look(&self, ino: Ino) -> Option<Mark> {
        self.inner().entries.get(&ino).map(|entry| entry.mark)
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        !self.inner().entries.is_empty()
    }

    /// All marks, as [`look`](Self::look) gives one.
    pub(crate) fn look_at_all(&self) -> Vec<(Ino, Mark)> {
        self.inner().entries.iter().map(|(ino, entry)| (*ino, entry.mark)).collect()
    }

    /// Takes the mark away that was seen before the file was synced, unless it was written meanwhile.
    pub(crate) fn synced(&self, ino: Ino, seen: Option<Mark>) {
        let mut inner = self.inner();
        let Some(entry) = inner.entries.get_mut(&ino) else { return };
        if Some(entry.mark) == seen {
            inner.entries.remove(&ino);
        } else if seen.is_some() {
            entry.fresh = false;
        }
    }

    /// The file is gone.
    pub(crate) fn forget(&self, ino: Ino) {
        self.inner().entries.remove(&ino);
    }

    /// All files have gone to a layer of their own.
    pub(crate) fn forget_all(&self) {
        self.inner().entries.clear();
    }

    pub(crate) fn of(&self, ino: Ino) -> Volatility {
        match self.inner().entries.get(&ino) {
            None => Volatility::Durable,
            Some(Entry { fresh: true, .. }) => Volatility::Fresh,
            Some(Entry { fresh: false, .. }) => Volatility::Changed,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each update is one insertion or removal: the map is whole at any point.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(7);

    #[test]
    fn a_write_beside_a_sync_leaves_its_mark() {
        let volatile = Volatile::default();
        assert_eq!(volatile.of(FILE), Volatility::Durable);
        volatile.mark(FILE, true);
        assert_eq!(volatile.of(FILE), Volatility::Fresh);
        let seen = volatile.look(FILE);
        volatile.mark(FILE, false);
        volatile.synced(FILE, seen);
        assert_eq!(volatile.of(FILE), Volatility::Changed, "what was synced is there to be kept");
        volatile.synced(FILE, volatile.look(FILE));
        assert_eq!(volatile.of(FILE), Volatility::Durable);
    }

    #[test]
    fn a_sync_that_saw_no_mark_takes_none_away() {
        let volatile = Volatile::default();
        let seen = volatile.look(FILE);
        volatile.mark(FILE, true);
        volatile.synced(FILE, seen);
        assert_eq!(volatile.of(FILE), Volatility::Fresh);
    }
}
