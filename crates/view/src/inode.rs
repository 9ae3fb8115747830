//! One node's metadata, whole: what a layer's catalog holds for it, or what the base snapshot says.

use crate::coverage::Coverage;
use crate::request::{Request, RequestKey};
use crate::working_files::HostStat;
use selvedge_store::{Content, Entry, FileKind, Ino, LayerId, ObjectId, Timestamp, Xattrs};

/// Where the bytes of a node are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// A node without bytes, or a directory without a base listing.
    None,
    /// A regular file of the store.
    Blob { id: ObjectId, size: u64, holes: Option<ObjectId> },
    /// A working file, `files/<ino>` of this layer. A file that is not there is empty.
    File { layer: LayerId },
    /// A working file that has only what was changed of a blob.
    Patched(Box<Patch>),
    /// A directory whose names, unless a layer says otherwise, are those of this tree.
    Tree { id: ObjectId },
    /// A symbolic link's target.
    Target(Vec<u8>),
}

/// A patched file: the working file `files/<ino>` of a layer, over a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) layer: LayerId,
    /// The blob that has what the working file lacks.
    pub(crate) blob: ObjectId,
    /// The blob's length.
    pub(crate) size: u64,
    pub(crate) holes: Option<ObjectId>,
    /// Which parts of the working file are known to be durable. What the file itself says counts, but for a loss of
    /// power.
    pub(crate) durable: Coverage,
}

impl Body {
    /// The layer that has the bytes, or some of them, in a working file.
    pub(crate) fn layer(&self) -> Option<LayerId> {
        match self {
            Self::File { layer } => Some(*layer),
            Self::Patched(patch) => Some(patch.layer),
            Self::None | Self::Blob { .. } | Self::Tree { .. } | Self::Target(_) => None,
        }
    }

    /// The same in a working file of another layer.
    pub(crate) fn in_layer(&self, layer: LayerId) -> Self {
        match self {
            Self::File { .. } => Self::File { layer },
            Self::Patched(patch) => Self::Patched(Box::new(Patch { layer, ..(**patch).clone() })),
            Self::None | Self::Blob { .. } | Self::Tree { .. } | Self::Target(_) => self.clone(),
        }
    }

    /// Whether the same bytes are in the same place, however much is known to be durable.
    pub(crate) fn is_where(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Patched(one), Self::Patched(other)) => one.layer == other.layer && one.blob == other.blob,
            (one, other) => one == other,
        }
    }

    /// The same, with `coverage` known to be durable. A patched file that has everything of its own is one like any
    /// other.
    pub(crate) fn durable_as(&self, coverage: Option<Coverage>) -> Self {
        match (self, coverage) {
            (Self::Patched(patch), Some(coverage)) if coverage.is_whole() => {
                Self::File { layer: patch.layer }
            }
            (Self::Patched(patch), Some(durable)) => {
                Self::Patched(Box::new(Patch { durable, ..(**patch).clone() }))
            }
            _ => self.clone(),
        }
    }
}

/// The last mutation carried out on a node, so that a resent request is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) key: RequestKey,
    /// The node the mutation made or found; the root of the reply to rebuild.
    pub(crate) result: Ino,
}

impl Applied {
    /// The mark that `request` leaves on the rows it writes.
    pub(crate) fn new(request: &Request, result: Ino) -> Self {
        Self { key: request.key, result }
    }
}

/// One node, whole. A row of a higher layer replaces those below it entirely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) rdev: u64,
    pub(crate) atime: Timestamp,
    /// Not the truth for a node whose working file lies in the layer of its row: that file's mtime is.
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    /// The working file's ctime that `ctime` stands for, if any does. One that differs need not be news: a host file's ctime
    /// changes with links, renames and copy-up, too.
    pub(crate) host_ctime: Option<Timestamp>,
    /// The directory that holds a directory; every directory has one. Of anything else, a directory in which it has
    /// a name or, as long as the base has its name there, had one: where to look for what the base says of it.
    pub(crate) parent: Option<Ino>,
    pub(crate) body: Body,
    /// What `body` was before the working file was made, until that file is durable: after a power cut this
    /// counts.
    pub(crate) fallback: Option<Body>,
    pub(crate) xattrs: Xattrs,
    pub(crate) applied: Option<Applied>,
}

impl Inode {
    /// When the node was changed last, where `host` is what its working file says.
    ///
    /// The host's own ctime does not tell: it changes with links and renames of the working file, too. But whoever writes
    /// gives the file an mtime that is the time of the change, and one that a program sets is noted in the row.
    pub(crate) fn ctime_beside(&self, host: &HostStat) -> Timestamp {
        if self.host_ctime == Some(host.ctime) || self.mtime == host.mtime {
            self.ctime
        } else {
            self.ctime.max(host.mtime)
        }
    }

    /// The node that an entry of the base snapshot describes; `parent` is the directory that holds it.
    pub(crate) fn from_entry(entry: &Entry, parent: Option<Ino>) -> Self {
        let (body, rdev) = match &entry.content {
            Content::Regular { blob, size, holes } => {
                (Body::Blob { id: *blob, size: *size, holes: *holes }, 0)
            }
            Content::Directory { tree, .. } => (Body::Tree { id: *tree }, 0),
            Content::Symlink { target } => (Body::Target(target.clone()), 0),
            Content::Fifo | Content::Socket => (Body::None, 0),
            Content::CharDevice { rdev } | Content::BlockDevice { rdev } => (Body::None, *rdev),
        };
        let kind = entry.kind();
        Self {
            ino: entry.meta.ino,
            kind,
            mode: entry.meta.mode,
            uid: entry.meta.uid,
            gid: entry.meta.gid,
            nlink: entry.meta.nlink,
            rdev,
            atime: entry.meta.mtime,
            mtime: entry.meta.mtime,
            ctime: entry.meta.ctime,
            host_ctime: None,
            parent,
            body,
            fallback: None,
            xattrs: entry.meta.xattrs.clone(),
            applied: None,
        }
    }

    /// The tree that lists a directory's base names, if it has one.
    pub(crate) fn tree(&self) -> Option<ObjectId> {
        match self.body {
            Body::Tree { id } => Some(id),
            Body::None | Body::Blob { .. } | Body::File { .. } | Body::Patched(_) | Body::Target(_) => None,
        }
    }

    /// The same when it has no name, and has had none since then unless its row says so already.
    pub(crate) fn without_name(self, since: Timestamp) -> Self {
        if self.nlink == 0 { self } else { Self { nlink: 0, ctime: since, ..self } }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}
