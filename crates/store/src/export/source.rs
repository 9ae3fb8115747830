//! What can be exported.

use crate::{BlobCheck, Content, Extent, FileKind, Meta};
use std::io;

/// Why a source cannot be read: whatever the implementation's own error is.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A tree that can be exported.
pub trait Source: Sync {
    /// The root directory.
    fn root(&self) -> Result<Node, SourceError>;

    /// What is in a directory, in the order of names (bytes): nothing, if it is gone by now.
    fn children(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, SourceError>;

    /// Whether a directory without anything in it is still part of the tree. In a live tree it may be gone.
    fn is_there(&self, directory: &Node) -> Result<bool, SourceError> {
        let _ = directory;
        Ok(true)
    }

    /// Opens a regular file for reading; `None` if it is gone by now, as happens in a live tree.
    fn open(&self, file: &Node) -> Result<Option<Box<dyn FileReader>>, SourceError>;
}

/// A file of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number, owner, mode, times, attributes. Nodes with one number are one file; `nlink` tells
    /// whether to expect more.
    pub meta: Meta,
    /// What is particular to its kind.
    pub shape: Shape,
    /// What the store has for it, where it has. A view gives it for what did not change.
    pub stored: Option<Content>,
}

/// What stat(2) and readlink(2) tell about a file beyond its [`Meta`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A regular file of this many bytes.
    Regular {
        /// How many.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// The name of a Unix socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Its number.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// Its number.
        rdev: u64,
    },
}

impl Shape {
    /// The kind of file.
    pub const fn kind(&self) -> FileKind {
        match self {
            Self::Regular { .. } => FileKind::Regular,
            Self::Directory => FileKind::Directory,
            Self::Symlink { .. } => FileKind::Symlink,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
            Self::CharDevice { .. } => FileKind::CharDevice,
            Self::BlockDevice { .. } => FileKind::BlockDevice,
        }
    }
}

/// A regular file of a [`Source`], open.
pub trait FileReader {
    /// How many bytes it has.
    fn size(&self) -> u64;

    /// Where it has data, in order, not touching; the rest are holes.
    fn data(&self) -> io::Result<Vec<Extent>>;

    /// Reads at `offset` as pread(2) does.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Compares what is read with the name that the store has it by, if it is to be and was not yet: whoever reads all of
    /// the file, front to back, tells it each piece.
    fn check(&self) -> Option<BlobCheck> {
        None
    }
}
