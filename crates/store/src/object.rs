//! The kinds of object and how each is named.

use crate::ObjectId;
use std::fmt;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A file's bytes.
    Blob,
    /// A directory.
    Tree,
    /// A tree with parents, a time and a message.
    Snapshot,
    /// Where a sparse file's holes are.
    Holes,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Blob, Self::Tree, Self::Snapshot, Self::Holes];

    /// The number that stands for this kind in the object database.
    pub const fn code(self) -> u8 {
        match self {
            Self::Blob => 1,
            Self::Tree => 2,
            Self::Snapshot => 3,
            Self::Holes => 4,
        }
    }

    /// A hasher that names objects of this kind.
    pub fn hasher(self) -> blake3::Hasher {
        match self {
            Self::Blob => blake3::Hasher::new(),
            Self::Tree => blake3::Hasher::new_derive_key("selvedge tree v1"),
            Self::Snapshot => blake3::Hasher::new_derive_key("selvedge snapshot v1"),
            Self::Holes => blake3::Hasher::new_derive_key("selvedge holes v1"),
        }
    }

    /// The name of the object of this kind with these bytes.
    pub fn id(self, bytes: &[u8]) -> ObjectId {
        id_of(self.hasher().update(bytes))
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blob => "blob",
            Self::Tree => "tree",
            Self::Snapshot => "snapshot",
            Self::Holes => "hole list",
        })
    }
}

/// A hasher for content ids of directories, which are no objects.
pub(crate) fn content_hasher() -> blake3::Hasher {
    blake3::Hasher::new_derive_key("selvedge directory content v1")
}

pub(crate) fn id_of(hasher: &blake3::Hasher) -> ObjectId {
    ObjectId::from_bytes(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_never_share_an_identifier() {
        let mut ids: Vec<_> = ObjectKind::ALL.iter().map(|kind| kind.id(b"same")).collect();
        ids.push(id_of(content_hasher().update(b"same")));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn a_blob_is_named_by_its_plain_hash() {
        // The first test vector of BLAKE3: the hash of no bytes at all.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(ObjectKind::Blob.id(b"").to_string(), empty);
    }
}
