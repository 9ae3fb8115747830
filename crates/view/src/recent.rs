//! What was used lately of something that can be had again, bounded: what fills it takes away what was not used for
//! longest, and never all of it at once.

use foldhash::HashMap;
use selvedge_store::Ino;

/// Something of at most `MOST` nodes. Two generations: what is used moves to the younger, and when that is half of all,
/// the older goes.
#[derive(Debug)]
pub(crate) struct Recent<V, const MOST: usize> {
    young: HashMap<Ino, V>,
    old: HashMap<Ino, V>,
}

impl<V, const MOST: usize> Default for Recent<V, MOST> {
    fn default() -> Self {
        Self { young: HashMap::default(), old: HashMap::default() }
    }
}

impl<V, const MOST: usize> Recent<V, MOST> {
    pub(crate) fn get(&mut self, ino: Ino) -> Option<&V> {
        if !self.young.contains_key(&ino) {
            let value = self.old.remove(&ino)?;
            self.insert(ino, value);
        }
        self.young.get(&ino)
    }

    pub(crate) fn insert(&mut self, ino: Ino, value: V) {
        if self.young.len() >= MOST / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(ino, value);
    }

    pub(crate) fn remove(&mut self, ino: Ino) {
        self.young.remove(&ino);
        self.old.remove(&ino);
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut recent = Recent::<u64, 100>::default();
        for ino in 0..10_000 {
            recent.insert(Ino(ino), ino);
            assert_eq!(recent.get(Ino(0)), Some(&0), "after {ino}");
            assert!(recent.young.len() + recent.old.len() <= 100);
        }
        assert_eq!(recent.get(Ino(9_999)), Some(&9_999));
        assert_eq!(recent.get(Ino(5_000)), None);
    }

    #[test]
    fn what_was_replaced_or_removed_does_not_come_back() {
        let mut recent = Recent::<char, 4>::default();
        recent.insert(Ino(1), 'a');
        recent.insert(Ino(2), 'b');
        recent.insert(Ino(3), 'c');
        recent.insert(Ino(1), 'z');
        assert_eq!(recent.get(Ino(1)), Some(&'z'));
        recent.remove(Ino(1));
        assert_eq!(recent.get(Ino(1)), None);
        assert_eq!(recent.get(Ino(2)), Some(&'b'));
        recent.clear();
        assert_eq!(recent.get(Ino(3)), None);
    }
}
