//! Directory streams whose positions outlive changes of the directory, and the worker.
//!
//! A position is 63 bits of the name's hash, and names are listed in that order: it means the same in every
//! listing of the directory, whoever made it. Of names whose hashes are equal (one directory in a hundred
//! thousand with ten million names has a pair) all but the last carry the position before them, so that a reply
//! that ends between two of them loses none.

use crate::attr::DirEntry;
use selvedge_store::{FileKind, Ino};
use std::ops::Range;

/// Cookie of `.`; hashes lie above both.
const DOT: u64 = 1;
/// Cookie of `..`.
pub(crate) const DOT_DOT: u64 = 2;

/// The names of a directory, ordered by cookie. The names are in one piece: one that has to be fetched from its own place in
/// memory costs more than everything else that is done with it.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    names: Vec<u8>,
    entries: Vec<Place>,
}

/// An entry of a listing.
#[derive(Debug)]
struct Place {
    cookie: u64,
    ino: Ino,
    kind: FileKind,
    name: Range<usize>,
}

/// A listing in the making.
#[derive(Debug, Default)]
pub(crate) struct Names {
    listing: Listing,
    hidden: Vec<Range<usize>>,
}

impl Names {
    /// With room for so many names.
    pub(crate) fn with_capacity(names: usize) -> Self {
        let entries = Vec::with_capacity(names);
        Self { listing: Listing { names: Vec::with_capacity(names * 16), entries }, hidden: Vec::new() }
    }

    /// Adds a name, with its [`cookie`] or 0.
    pub(crate) fn add(&mut self, name: &[u8], ino: Ino, kind: FileKind, cookie: u64) {
        let name = self.listing.keep(name);
        self.listing.entries.push(Place { cookie, ino, kind, name });
    }

    /// Takes note of a name that is not there.
    pub(crate) fn hide(&mut self, name: &[u8]) {
        let name = self.listing.keep(name);
        self.hidden.push(name);
    }

    /// The names that were added or hidden.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.listing.entries.iter().map(|place| &place.name).chain(&self.hidden);
        names.map(|name| self.listing.name(name))
    }

    /// The listing of `directory`, which lies in `parent`.
    pub(crate) fn listing(self, directory: Ino, parent: Ino) -> Listing {
        let mut listing = self.listing;
        for place in listing.entries.iter_mut().filter(|place| place.cookie == 0) {
            place.cookie = cookie(listing.names.get(place.name.clone()).unwrap_or_default());
        }
        for (ino, name, cookie) in [(directory, &b"."[..], DOT), (parent, b"..", DOT_DOT)] {
            let name = listing.keep(name);
            listing.entries.push(Place { cookie, ino, kind: FileKind::Directory, name });
        }
        listing.sort();
        listing
    }
}

impl Listing {
    fn keep(&mut self, name: &[u8]) -> Range<usize> {
        let start = self.names.len();
        self.names.extend_from_slice(name);
        start..self.names.len()
    }

    fn name(&self, name: &Range<usize>) -> &[u8] {
        self.names.get(name.clone()).unwrap_or_default()
    }

    fn sort(&mut self) {
        self.entries.sort_unstable_by_key(|place| place.cookie);
        let name = |place: &Place| self.names.get(place.name.clone());
        for same in self.entries.chunk_by_mut(|a, b| a.cookie == b.cookie).filter(|same| same.len() > 1) {
            same.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
            let last = same.len() - 1;
            same[..last].iter_mut().for_each(|place| place.cookie -= 1);
        }
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
    pub(crate) fn after(&self, cookie: u64) -> impl Iterator<Item = DirEntry<'_>> {
        let start = self.entries.partition_point(|place| place.cookie <= cookie);
        self.entries.get(start..).unwrap_or_default().iter().map(|place| DirEntry {
            ino: place.ino,
            kind: place.kind,
            name: self.name(&place.name),
            cookie: place.cookie,
        })
    }
}

/// The cookie of a name: part of the format, because it is kept across workers, snapshots and hosts.
pub(crate) fn cookie(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    let prefix = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    // The position before a name's must lie above those of `.` and `..`.
    (prefix >> 1).max(DOT_DOT + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let mut made = Names::default();
        for (at, name) in names.iter().enumerate() {
            made.add(name.as_bytes(), Ino(100 + at as u64), FileKind::Regular, 0);
        }
        made.listing(Ino(10), Ino(9))
    }

    fn from(listing: &Listing, cookie: u64, limit: usize) -> Vec<DirEntry<'_>> {
        listing.after(cookie).take(limit).collect()
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
            assert!(listed || rest.contains(&kept.as_bytes()), "{kept} was lost");
        }
    }

    #[test]
    fn names_at_one_position_are_all_listed_even_if_a_reply_ends_between_them() {
        let mut listing = listing(&["c", "a", "z", "b"]);
        for place in &mut listing.entries {
            let name = &listing.names[place.name.clone()];
            place.cookie = match name {
                b"z" => 50,
                b"." | b".." => place.cookie,
                _ => 100,
            };
        }
        listing.sort();
        let listed = from(&listing, 0, 9).into_iter().map(|entry| (entry.name, entry.cookie));
        let expected = [(&b"."[..], 1), (b"..", 2), (b"z", 50), (b"a", 99), (b"b", 99), (b"c", 100)];
        assert!(listed.eq(expected));
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
        assert_eq!(names[..2], [&b"."[..], b".."]);
    }

    #[test]
    fn cookies_are_part_of_the_format() {
        assert_eq!(cookie(b"Cargo.toml"), cookie(b"Cargo.toml"));
        assert_eq!(cookie(b""), u64::from_le_bytes([0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6]) >> 1);
        assert!(cookie(b"x") < 1 << 63);
    }
}
