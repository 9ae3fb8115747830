//! Inode numbers.

use std::fmt;

/// The first number that Selvedge makes by itself. Numbers below it come from imported sources.
pub const FIRST_NEW_INO: u64 = 1 << 60;

/// An inode number: unique within a thread's lineage and kept by snapshot, fork, export's idea of
/// hard links, and remount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
