//! Typed access to objects.

use crate::backend::Backend;
use crate::{BlobReader, BlobWriter, EncodedTree, Extent, ObjectId, ObjectKind, Snapshot, StoreError, Tree};
use std::sync::Arc;

/// Objects, typed and verified, on any [`Backend`].
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

/// Why a prefix names no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Not 8–64 lower-case hexadecimal digits.
    #[error("{text:?} is no snapshot id: 8 to 64 hexadecimal digits are needed")]
    Syntax {
        /// The offending text.
        text: String,
    },
    /// No snapshot begins so.
    #[error("no snapshot's id begins with {prefix}")]
    NotFound {
        /// What was looked for.
        prefix: String,
    },
    /// Several snapshots begin so.
    #[error("several snapshots' ids begin with {prefix}")]
    Ambiguous {
        /// What was looked for.
        prefix: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// A store on `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// The tree of that name, verified.
    pub fn tree(&self, id: &ObjectId) -> Result<Arc<Tree>, StoreError> {
        todo!()
    }

    /// The snapshot of that name, verified.
    pub fn snapshot(&self, id: &ObjectId) -> Result<Snapshot, StoreError> {
        todo!()
    }

    /// Where a sparse file's holes are, in order, not touching.
    pub fn holes(&self, id: &ObjectId) -> Result<Vec<Extent>, StoreError> {
        todo!()
    }

    /// Opens a blob of `size` bytes. A small one is verified; of a large one the size is checked.
    pub fn open_blob(&self, id: &ObjectId, size: u64) -> Result<BlobReader, StoreError> {
        todo!()
    }

    /// Keeps a blob that is at hand as a whole; tells its name and whether it is new.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<(ObjectId, bool), StoreError> {
        todo!()
    }

    /// Keeps a blob that comes in pieces.
    pub fn blob_writer(&self) -> BlobWriter<'_> {
        todo!()
    }

    /// Keeps a tree; tells whether it is new.
    pub fn put_tree(&self, tree: &EncodedTree) -> Result<bool, StoreError> {
        todo!()
    }

    /// Keeps a snapshot and tells its name.
    pub fn put_snapshot(&self, snapshot: &Snapshot) -> Result<ObjectId, StoreError> {
        todo!()
    }

    /// Whether there is such an object.
    pub fn has(&self, kind: ObjectKind, id: &ObjectId) -> Result<bool, StoreError> {
        todo!()
    }

    /// Makes everything put so far durable and visible to other processes. After the first failure
    /// all later writes are refused with [`StoreError::Latched`].
    pub fn sync(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// The one snapshot whose id begins with `prefix`, 8 to 64 hexadecimal digits.
    pub fn resolve_snapshot(&self, prefix: &str) -> Result<ObjectId, ResolveError> {
        todo!()
    }
}
