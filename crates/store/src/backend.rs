//! Where objects lie: the seam between the store and a disk, memory, or a remote.

mod local;
mod memory;

pub use local::{DEFAULT_LARGE_BLOB, LocalBackend};
pub use memory::MemoryBackend;

use crate::gc::{Removed, Spare};
use crate::{ObjectId, ObjectKind, StoreError};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Keeps objects by kind and name. It neither checks nor understands them.
pub trait Backend: Send + Sync {
    /// The bytes of a small object.
    fn get(&self, kind: ObjectKind, id: &ObjectId) -> Result<Option<Arc<[u8]>>, StoreError>;

    /// Whether there is such an object, small or in a file of its own.
    fn has(&self, kind: ObjectKind, id: &ObjectId) -> Result<bool, StoreError>;

    /// Keeps a small object and tells whether it is new. It may be invisible to other processes,
    /// and is not durable, until [`Self::sync`].
    fn put(&self, kind: ObjectKind, id: &ObjectId, bytes: &[u8]) -> Result<bool, StoreError>;

    /// A place to write a blob whose name is not known yet.
    fn stage_blob(&self) -> Result<StagedBlob, StoreError>;

    /// Keeps a staged blob under its name and tells whether it is new. Durable after
    /// [`Self::sync`].
    fn put_blob_file(&self, id: &ObjectId, staged: StagedBlob) -> Result<bool, StoreError>;

    /// The file of a blob that has one of its own.
    fn open_blob_file(&self, id: &ObjectId) -> Result<Option<File>, StoreError>;

    /// Blobs of at least this many bytes get a file of their own.
    fn large_blob(&self) -> u64;

    /// Makes everything put so far durable and visible to other processes. The first failure
    /// latches the backend: it refuses all later writes.
    fn sync(&self) -> Result<(), StoreError>;

    /// Removes objects; tells how many there were, and their bytes. The caller knows that nobody relies on them.
    /// Durable after [`Self::sync`].
    fn remove(&self, kind: ObjectKind, ids: &[ObjectId]) -> Result<Removed, StoreError>;

    /// Gives the room of what was removed back to the disk, as far as that goes. Others write meanwhile: each step keeps
    /// them waiting for milliseconds at most, and a death between two steps leaves the rest for the next time.
    fn give_back(&self) -> Result<Spare, StoreError> {
        Ok(Spare::default())
    }

    /// What is wrong with how objects are kept, whatever they hold.
    fn check(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// The names of `kind` from `first` to `last`, both included, in order, at most `limit`.
    fn list(
        &self,
        kind: ObjectKind,
        first: &ObjectId,
        last: &ObjectId,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError>;
}

/// A blob being written: gone when dropped, kept by [`Backend::put_blob_file`].
#[derive(Debug)]
pub struct StagedBlob {
    /// The open file, empty at first.
    pub file: File,
    /// Its temporary name, where it has one.
    pub path: Option<PathBuf>,
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What stays behind is swept from `tmp/` when the repository is next opened.
            let _ = std::fs::remove_file(path);
        }
    }
}
