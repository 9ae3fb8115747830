//! What the layers say of names, as far as somebody has asked: a lookup and a listing find it here.

use crate::catalog::NameRow;
use crate::dir_stream;
use foldhash::HashMap;
use selvedge_store::Ino;

/// Names kept in memory, known to be absent or not; some 10 MiB.
const MOST_NAMES: usize = 65_536;

/// Directories kept in memory, most of them without a name that any layer speaks of.
const MOST_DIRECTORIES: usize = 16_384;

/// A directory's names as the layers have them, the highest first.
#[derive(Debug, Default)]
struct Directory {
    /// No layer speaks of a name that is not here.
    complete: bool,
    names: HashMap<Vec<u8>, Option<Said>>,
}

/// What the layers say of a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) row: NameRow,
    /// The name's position in listings, 0 if it is not known: whoever lists a directory would otherwise wait longest for the hash
    /// of each name.
    pub(crate) cookie: u64,
}

impl Said {
    fn of(name: &[u8], row: NameRow) -> Self {
        let cookie = match row {
            NameRow::Node { .. } => dir_stream::cookie(name),
            NameRow::Whiteout => 0,
        };
        Self { row, cookie }
    }
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// This is what the layers say; nothing if they say nothing.
    Said(Option<NameRow>),
    /// Of the directory, not of the name.
    Unknown,
    /// Nobody has asked about the directory yet.
    Nothing,
}

/// The names that are kept.
#[derive(Debug, Default)]
pub(crate) struct KnownNames {
    directories: HashMap<Ino, Directory>,
    names: usize,
}

impl KnownNames {
    /// What is known of `name` in `parent`.
    pub(crate) fn get(&self, parent: Ino, name: &[u8]) -> Known {
        let Some(directory) = self.directories.get(&parent) else { return Known::Nothing };
        match directory.names.get(name) {
            Some(said) => Known::Said(said.map(|said| said.row)),
            None if directory.complete => Known::Said(None),
            None => Known::Unknown,
        }
    }

    /// All that the layers say of names in `parent`, if all of it is known, and how many names these are at most.
    pub(crate) fn said(&self, parent: Ino) -> Option<(usize, impl Iterator<Item = (&[u8], Said)>)> {
        let directory = self.directories.get(&parent).filter(|directory| directory.complete)?;
        let said = directory.names.iter().filter_map(|(name, said)| Some((&name[..], (*said)?)));
        Some((directory.names.len(), said))
    }

    /// Takes note of a directory of which nothing is known, or of which no layer speaks.
    pub(crate) fn begin(&mut self, parent: Ino, complete: bool) {
        self.make_room();
        self.directories.entry(parent).or_default().complete |= complete;
    }

    /// Takes note of everything that the layers say of names in `parent`.
    pub(crate) fn keep_all(&mut self, parent: Ino, said: &HashMap<Vec<u8>, NameRow>) {
        if said.len() > MOST_NAMES / 4 {
            return;
        }
        self.forget(parent);
        self.begin(parent, true);
        for (name, row) in said {
            self.keep(parent, name, Some(*row));
        }
    }

    /// Takes note of what the layers say of a name, if anything is known of its directory.
    pub(crate) fn keep(&mut self, parent: Ino, name: &[u8], said: Option<NameRow>) {
        let Some(directory) = self.directories.get_mut(&parent) else { return };
        if self.names >= MOST_NAMES && !directory.names.contains_key(name) {
            return self.clear();
        }
        if said.is_none() && directory.complete {
            self.names -= usize::from(directory.names.remove(name).is_some());
            return;
        }
        if let Some(known) = directory.names.get_mut(name) {
            *known = said.map(|row| Said { row, ..known.unwrap_or_else(|| Said::of(name, row)) });
        } else {
            directory.names.insert(name.to_vec(), said.map(|row| Said::of(name, row)));
            self.names += 1;
        }
    }

    /// Forgets a directory.
    pub(crate) fn forget(&mut self, parent: Ino) {
        if let Some(directory) = self.directories.remove(&parent) {
            self.names -= directory.names.len();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.directories.clear();
        self.names = 0;
    }

    fn make_room(&mut self) {
        if self.names >= MOST_NAMES || self.directories.len() >= MOST_DIRECTORIES {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_store::FileKind;

    const DIR: Ino = Ino(2);
    const FILE: NameRow = NameRow::Node { ino: Ino(7), kind: FileKind::Regular };

    fn all(known: &KnownNames) -> Option<Vec<(&[u8], NameRow)>> {
        known.said(DIR).map(|(_, said)| said.map(|(name, said)| (name, said.row)).collect())
    }

    #[test]
    fn an_absent_name_is_known_only_where_all_names_are() {
        let mut known = KnownNames::default();
        assert_eq!(known.get(DIR, b"a"), Known::Nothing);
        known.keep(DIR, b"a", Some(FILE));
        assert_eq!(known.get(DIR, b"a"), Known::Nothing, "nothing is kept of a directory nobody asked about");
        known.begin(DIR, false);
        known.keep(DIR, b"a", Some(FILE));
        known.keep(DIR, b"b", None);
        assert_eq!(known.get(DIR, b"a"), Known::Said(Some(FILE)));
        assert_eq!(known.get(DIR, b"b"), Known::Said(None));
        assert_eq!((known.get(DIR, b"c"), all(&known)), (Known::Unknown, None));
        known.keep_all(DIR, &HashMap::from_iter([(b"c".to_vec(), FILE)]));
        assert_eq!(
            (known.get(DIR, b"a"), known.get(DIR, b"c")),
            (Known::Said(None), Known::Said(Some(FILE)))
        );
        known.keep(DIR, b"c", None);
        assert_eq!((known.get(DIR, b"c"), all(&known)), (Known::Said(None), Some(Vec::new())));
        assert_eq!(known.names, 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut known = KnownNames::default();
        for directory in 0..3 * MOST_DIRECTORIES as u64 {
            known.begin(Ino(directory), true);
            for name in 0..8 {
                known.keep(Ino(directory), &[name], Some(FILE));
            }
            assert!(known.names < MOST_NAMES + 8 && known.directories.len() <= MOST_DIRECTORIES);
        }
    }
}
