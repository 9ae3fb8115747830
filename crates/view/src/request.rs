//! Who asks, and under which key an answer is remembered.

use selvedge_store::Ino;

/// Names one request of one kernel connection for ever, so that a request sent again can be recognised.
///
/// The kernel numbers requests from 2 again on every mount, so the number alone names nothing; the epoch
/// is drawn at random for each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RequestKey {
    /// The connection's epoch: random, kept by every worker that serves the connection.
    pub epoch: u64,
    /// The request's `unique` without bit 63 (the bit that marks a resent request).
    pub unique: u64,
}

/// One request to a view: its key, whether it is asked again, and for whom.
///
/// The kernel has checked permissions (`default_permissions`); the caller's ids and mask serve only for
/// what a file system decides itself: owner and mode of new files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Key under which the result of a mutation is stored with the rows it changes.
    pub key: RequestKey,
    /// The kernel has sent this request before, to a worker that died.
    pub resent: bool,
    /// Effective user of the caller.
    pub uid: u32,
    /// Effective group of the caller.
    pub gid: u32,
    /// The permission bits that the caller's new files do not get (umask(2)), unless the directory has a default
    /// access control list.
    pub umask: u32,
}

/// An open file or directory: the number of the request that opened it, so it is never used twice within
/// a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// How an operation comes to an open file or directory: by the handle that opening it gave, or by its number where the
/// kernel opens without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// What opening it gave.
    Handle(Handle),
    /// The file or directory itself.
    Node(Ino),
}

impl From<Handle> for Via {
    fn from(handle: Handle) -> Self {
        Self::Handle(handle)
    }
}

impl From<Ino> for Via {
    fn from(node: Ino) -> Self {
        Self::Node(node)
    }
}
