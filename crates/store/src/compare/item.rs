//! A file, as far as comparisons go.

use crate::export::{Node, Shape};
use crate::{Content, FileKind, Ino, ObjectId, Xattrs};

/// A file of a [`Side`](super::Side): all that comparisons look at, and what finds it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub ino: Ino,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The [`fingerprint`] of its extended attributes.
    pub xattrs: ObjectId,
    /// What is particular to its kind.
    pub body: Body,
}

/// What is particular to a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A regular file.
    Regular {
        /// How many bytes it has.
        size: u64,
        /// The blob that has them, if the store does.
        blob: Option<ObjectId>,
    },
    /// A directory.
    Directory {
        /// The stored tree that it is equal to, all the way down, if it is known to be.
        stored: Option<StoredTree>,
    },
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

/// A directory in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTree {
    /// The object.
    pub tree: ObjectId,
    /// Its content id, where that is known.
    pub digest: Option<ObjectId>,
}

impl Item {
    /// The kind of file.
    pub const fn kind(&self) -> FileKind {
        match self.body {
            Body::Regular { .. } => FileKind::Regular,
            Body::Directory { .. } => FileKind::Directory,
            Body::Symlink { .. } => FileKind::Symlink,
            Body::Fifo => FileKind::Fifo,
            Body::Socket => FileKind::Socket,
            Body::CharDevice { .. } => FileKind::CharDevice,
            Body::BlockDevice { .. } => FileKind::BlockDevice,
        }
    }

    /// Whether both are directories.
    pub const fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory { .. })
    }

    /// Whether mode, owner, group and attributes are the same.
    pub fn same_metadata(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid, self.xattrs) == (other.mode, other.uid, other.gid, other.xattrs)
    }
}

impl Body {
    /// Whether both are known to be one tree, all the way down.
    pub(super) fn same_directory(&self, other: &Self) -> bool {
        let (Self::Directory { stored: Some(one) }, Self::Directory { stored: Some(other) }) = (self, other)
        else {
            return false;
        };
        one.tree == other.tree || (one.digest.is_some() && one.digest == other.digest)
    }
}

impl From<&Node> for Item {
    fn from(node: &Node) -> Self {
        let body = match (&node.shape, &node.stored) {
            (Shape::Regular { .. }, Some(Content::Regular { blob, size, .. })) => {
                Body::Regular { size: *size, blob: Some(*blob) }
            }
            (Shape::Regular { size }, _) => Body::Regular { size: *size, blob: None },
            (Shape::Directory, Some(Content::Directory { tree, digest })) => {
                Body::Directory { stored: Some(StoredTree { tree: *tree, digest: Some(*digest) }) }
            }
            (Shape::Directory, _) => Body::Directory { stored: None },
            (Shape::Symlink { target }, _) => Body::Symlink { target: target.clone() },
            (Shape::Fifo, _) => Body::Fifo,
            (Shape::Socket, _) => Body::Socket,
            (Shape::CharDevice { rdev }, _) => Body::CharDevice { rdev: *rdev },
            (Shape::BlockDevice { rdev }, _) => Body::BlockDevice { rdev: *rdev },
        };
        let meta = &node.meta;
        Self {
            ino: meta.ino,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            xattrs: fingerprint(&meta.xattrs),
            body,
        }
    }
}

/// A hash that is the same for equal sets of extended attributes: those themselves may be large.
pub fn fingerprint(xattrs: &Xattrs) -> ObjectId {
    let mut hasher = blake3::Hasher::new();
    for (name, value) in xattrs.iter() {
        for part in [name, value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    ObjectId::from_bytes(*hasher.finalize().as_bytes())
}
