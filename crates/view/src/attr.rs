//! What `stat` shows of a node, and what `setattr` may change.

use crate::inode::Inode;
use selvedge_store::{FileKind, Ino, Meta, Timestamp};

/// Attributes of one node, as stat(2) shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number; also the node id, the root aside (which is node 1 to the kernel).
    pub ino: Ino,
    /// Type of the node.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Number of names; 0 for a node that is unlinked and still open.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node in the kernel's encoding, else 0.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Last access. Kept as set; reads do not change it.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
}

impl Attr {
    /// What a snapshot keeps of the node besides its content.
    pub(crate) fn meta(&self, inode: &Inode) -> Meta {
        let &Self { ino, mode, nlink, uid, gid, mtime, ctime, .. } = self;
        Meta { ino, mode, uid, gid, nlink, mtime, ctime, xattrs: inode.xattrs.clone() }
    }
}

/// A time that `setattr` sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// This time.
    At(Timestamp),
    /// The time at which the request is carried out.
    Now,
}

/// The changes of one `setattr`; `None` leaves a field as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// New permission bits (`07777`).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length: truncate or extend with a hole.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// The time of this change, where the kernel keeps it; else it is the time at which the request is carried out.
    pub ctime: Option<Timestamp>,
    /// What becomes of set-id bits.
    pub set_id: SetId,
}

/// What a change makes of the set-user and set-group bits of anything but a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetId {
    /// They stay.
    #[default]
    Keep,
    /// They go: the owner changes, or somebody writes who may not set them.
    Clear {
        /// A set-group bit on a file that its group may not execute stays, as it does for whoever is in the group
        /// or may set such bits.
        keep_group: bool,
        /// The caller is the file's owner, or may do what the owner may. Anybody else takes them away by writing alone: while
        /// nobody has the file open for writing, a change of nothing but these bits is a chown(2), and refused.
        owned: bool,
    },
}

/// One entry of a directory stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Inode number of the entry.
    pub ino: Ino,
    /// Type of the entry.
    pub kind: FileKind,
    /// Name in bytes.
    pub name: &'a [u8],
    /// Cookie of the entry: a listing that continues after it resumes here, in this worker or a later one.
    pub cookie: u64,
}

impl DirEntry<'_> {
    /// Whether it is the directory itself or the one above.
    pub(crate) fn is_dots(&self) -> bool {
        matches!(self.name, b"." | b"..")
    }
}

/// Space and nodes of the disk that holds the repository, as statvfs(3) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Total blocks, in units of `frsize`.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for ordinary users.
    pub bavail: u64,
    /// Total nodes.
    pub files: u64,
    /// Free nodes.
    pub ffree: u64,
    /// Preferred block size in bytes.
    pub bsize: u32,
    /// Fundamental block size in bytes.
    pub frsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
}

/// How `setxattr` treats an attribute that exists or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// `XATTR_CREATE`: fail when it exists.
    Create,
    /// `XATTR_REPLACE`: fail when it does not.
    Replace,
}

/// How `rename` treats an existing target: renameat2(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// `RENAME_NOREPLACE`: fail when it exists.
    NoReplace,
    /// `RENAME_EXCHANGE`: swap both names.
    Exchange,
    /// `RENAME_WHITEOUT`: replace it, and leave a character device 0:0 under the old name.
    Whiteout,
}

/// Which access control list of a node: acl(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclKind {
    /// The one that says who may do what with the node.
    Access,
    /// The one that new nodes in a directory inherit.
    Default,
}

/// What `allocate` does with a range of a file: fallocate(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Gives it room on the disk; the file grows if it ends before the range does.
    Reserve,
    /// `FALLOC_FL_KEEP_SIZE`: gives it room, and leaves the length.
    ReserveKeepingSize,
    /// `FALLOC_FL_PUNCH_HOLE`: makes it a hole. The length stays.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`: makes it zeros; the file grows if it ends before the range does.
    Zero,
    /// `FALLOC_FL_ZERO_RANGE` with `FALLOC_FL_KEEP_SIZE`.
    ZeroKeepingSize,
}

/// What `seek` looks for: lseek(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`. The end of a file is one.
    Hole,
}
