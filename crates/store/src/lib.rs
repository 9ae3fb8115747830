//! Content-addressed objects, thread references, import and export.
//!
//! A repository is a `.selvedge/` directory. This crate owns everything in it except the inside of
//! layers: immutable objects (blob, tree, snapshot) addressed by BLAKE3, the threads' references,
//! the locks, and the way in ([`import`]) and out ([`export`]) for whole directory trees. It knows
//! no inode operations and no FUSE; a thread's working tree is the `view` crate's business.

mod attributes;
pub mod backend;
mod beneath;
mod blob;
mod blob_check;
mod codec;
pub mod compare;
mod disk_use;
mod entry;
mod error;
pub mod export;
pub mod fsck;
pub mod gc;
mod history;
mod hold;
mod holes;
mod id;
pub mod import;
mod ino;
mod kind;
mod latch;
mod lock;
mod name;
mod object;
mod refs;
mod repository;
mod snapshot;
mod sqlite;
mod store;
mod time;
mod tree;
mod xattrs;

pub use blob::{BlobReader, BlobWriter, Later, WrittenBlob};
pub use blob_check::BlobCheck;
pub use disk_use::disk_use;
pub use entry::{Content, Entry, MODE_BITS, Meta};
pub use error::{DecodeError, StoreError};
pub use history::{ancestors, history};
pub use hold::{HoldError, ObjectHold};
pub use holes::{Extent, between_holes};
pub use id::{IdError, LayerId, ObjectId, ThreadId};
pub use ino::{FIRST_NEW_INO, Ino};
pub use kind::FileKind;
pub use lock::{LockError, ThreadLock};
pub use name::{NameError, ThreadName};
pub use object::ObjectKind;
pub use refs::{EachThread, NewState, Refs, RefsError, ThreadRef};
pub use repository::{
    Created, DIRECTORY_NAME, Discovery, FORMAT_VERSION, OpenOptions, Repository, RepositoryError,
};
pub use snapshot::Snapshot;
pub use store::{ResolveError, Store};
pub use time::Timestamp;
pub use tree::{EncodedTree, Tree, TreeBuilder, check_name};
pub use xattrs::Xattrs;
