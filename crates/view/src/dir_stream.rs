//! Directory streams whose positions outlive changes of the directory, and the worker.
//!
//! A position is 63 bits of the name's hash, and names are listed in that order: it means the same in every
//! listing of the directory, whoever made it. Of names whose hashes are equal (one directory in a hundred
//! thousand with ten million names has a pair) all but the last carry the position before them, so that a reply
//! that ends between two of them loses none.

use crate::attr::DirEntry;
use selvedge_store::{FileKind, Ino};

/// Cookie of `.`; hashes lie above both.
const DOT: u64 = 1;
/// Cookie of `..`.
pub(crate) const DOT_DOT: u64 = 2;

/// The names of a directory, ordered by cookie.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    entries: Vec<DirEntry>,
}

impl Listing {
    /// The listing of `directory`, which lies in `parent` and has these names.
    pub(crate) fn new(directory: Ino, parent: Ino, mut entries: Vec<DirEntry>) -> Self {
        for (ino, name, cookie) in [(directory, &b"."[..], DOT), (parent, b"..", DOT_DOT)] {
            entries.push(DirEntry { ino, kind: FileKind::Directory, name: name.to_vec(), cookie });
        }
        // Positions are sorted, which are short, and each entry is then moved once.
        entries.sort_by_cached_key(|entry| entry.cookie);
        for same in entries.chunk_by_mut(|a, b| a.cookie == b.cookie).filter(|same| same.len() > 1) {
            same.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            let last = same.len() - 1;
            same[..last].iter_mut().for_each(|entry| entry.cookie -= 1);
        }
        Self { entries }
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing after `cookie`.
    pub(crate) fn ends_at(&self, cookie: u64) -> bool {
        self.entries.last().is_none_or(|last| last.cookie <= cookie)
    }

    /// The entries after `cookie`.
    pub(crate) fn after(&self, cookie: u64) -> &[DirEntry] {
        let start = self.entries.partition_point(|entry| entry.cookie <= cookie);
        self.entries.get(start..).unwrap_or_default()
    }
}

impl DirEntry {
    /// An entry of a listing that is to be made.
    pub(crate) fn new(name: Vec<u8>, ino: Ino, kind: FileKind) -> Self {
        Self { ino, kind, cookie: cookie(&name), name }
    }
}

/// The cookie of a name: part of the format, because it is kept across workers, snapshots and hosts.
fn cookie(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    let prefix = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    // The position before a name's must lie above those of `.` and `..`.
    (prefix >> 1).max(DOT_DOT + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let named = names.iter().enumerate();
        let entry = |(at, name): (usize, &&str)| {
            DirEntry::new(name.as_bytes().to_vec(), Ino(100 + at as u64), FileKind::Regular)
        };
        Listing::new(Ino(10), Ino(9), named.map(entry).collect())
    }

    fn from(listing: &Listing, cookie: u64, limit: usize) -> Vec<DirEntry> {
        listing.after(cookie).iter().take(limit).cloned().collect()
    }

    #[test]
    fn a_position_means_the_same_after_names_came_and_went() {
        let before = listing(&["a", "b", "c", "d", "e", "f"]);
        let first = from(&before, 0, 4);
        let position = first[3].cookie;
        let after = listing(&["a", "c", "e", "g", "h", "f", "b"]);
        let rest: Vec<_> = from(&after, position, 99).into_iter().map(|entry| entry.name).collect();
        for entry in &first {
            assert!(!rest.contains(&entry.name), "a name was listed twice");
        }
        for kept in ["a", "b", "c", "e", "f"] {
            let listed = first.iter().any(|entry| entry.name == kept.as_bytes());
            assert!(listed || rest.contains(&kept.as_bytes().to_vec()), "{kept} was lost");
        }
    }

    #[test]
    fn names_at_one_position_are_all_listed_even_if_a_reply_ends_between_them() {
        let entry = |name: &[u8], cookie| DirEntry {
            cookie,
            ..DirEntry::new(name.to_vec(), Ino(5), FileKind::Regular)
        };
        let entries = vec![entry(b"c", 100), entry(b"a", 100), entry(b"z", 50), entry(b"b", 100)];
        let listing = Listing::new(Ino(10), Ino(9), entries);
        let listed = from(&listing, 0, 9).into_iter().map(|entry| (entry.name, entry.cookie));
        let expected = [(&b"."[..], 1), (b"..", 2), (b"z", 50), (b"a", 99), (b"b", 99), (b"c", 100)];
        assert!(listed.eq(expected.map(|(name, cookie)| (name.to_vec(), cookie))));
    }

    #[test]
    fn one_entry_a_reply_lists_everything_once() {
        let listing = listing(&["x", "y", "z"]);
        let mut cookie = 0;
        let mut names = Vec::new();
        while let Some(entry) = from(&listing, cookie, 1).pop() {
            cookie = entry.cookie;
            names.push(entry.name);
        }
        assert_eq!(names.len(), 5);
        assert_eq!(names[..2], [b".".to_vec(), b"..".to_vec()]);
    }

    #[test]
    fn cookies_are_part_of_the_format() {
        assert_eq!(cookie(b"Cargo.toml"), cookie(b"Cargo.toml"));
        assert_eq!(cookie(b""), u64::from_le_bytes([0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6]) >> 1);
        assert!(cookie(b"x") < 1 << 63);
    }
}
