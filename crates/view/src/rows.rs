//! Which nodes a layer has a row of, kept in memory: most lookups ask every layer of a thread for nodes that none of them
//! mentions, and to ask the database for one costs microseconds.

use crate::commit::{Commit, Effect};
use crate::error::Result;
use foldhash::HashSet;
use selvedge_store::Ino;
use std::cell::OnceCell;

/// Layers with more rows are asked each time: to read so many takes a successor's first request some three milliseconds.
const MOST: usize = 16_384;

/// The numbers of a layer's rows, unless they are many. Read when first asked for.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    numbers: OnceCell<Option<HashSet<Ino>>>,
}

impl Rows {
    /// Whether there may be a row of the node. `read` reads that many numbers of rows, or all if there are fewer.
    pub(crate) fn may_have(&self, ino: Ino, read: impl FnOnce(u64) -> Result<HashSet<Ino>>) -> Result<bool> {
        let numbers = if let Some(numbers) = self.numbers.get() {
            numbers
        } else {
            let numbers = read(MOST as u64 + 1)?;
            self.numbers.get_or_init(|| (numbers.len() <= MOST).then_some(numbers))
        };
        Ok(numbers.as_ref().is_none_or(|numbers| numbers.contains(&ino)))
    }

    /// Takes note of what was committed.
    pub(crate) fn note(&mut self, commit: &Commit) {
        let Some(Some(numbers)) = self.numbers.get_mut() else { return };
        for effect in &commit.effects {
            match effect {
                Effect::PutInode(inode) => drop(numbers.insert(inode.ino)),
                Effect::DeleteInode(ino) => drop(numbers.remove(ino)),
                _ => {}
            }
        }
        if numbers.len() > MOST {
            self.numbers = OnceCell::from(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(ino: u64) -> Commit {
        let mut commit = Commit::new();
        commit.push(Effect::DeleteInode(Ino(ino)));
        commit
    }

    #[test]
    fn what_has_no_row_is_known_until_there_are_many() {
        let mut rows = Rows::default();
        rows.note(&delete(1));
        let read = |_| Ok(HashSet::from_iter([Ino(1), Ino(2)]));
        assert!(rows.may_have(Ino(1), read).unwrap());
        assert!(!rows.may_have(Ino(3), |_| unreachable!("they were read")).unwrap());
        rows.note(&delete(1));
        assert!(!rows.may_have(Ino(1), read).unwrap());
        assert!(rows.may_have(Ino(2), read).unwrap());
        let many = Rows::default();
        let read = |most: u64| Ok((0..most).map(Ino).collect());
        assert!(many.may_have(Ino(u64::MAX), read).unwrap(), "nobody knows");
    }
}
