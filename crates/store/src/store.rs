//! Typed access to objects.

use crate::backend::Backend;
use crate::blob::Later;
use crate::holes;
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
        let bytes = self.get(ObjectKind::Tree, id)?;
        Tree::decode(&*bytes).map(Arc::new).map_err(|error| damaged(ObjectKind::Tree, id, &error))
    }

    /// The snapshot of that name, verified.
    pub fn snapshot(&self, id: &ObjectId) -> Result<Snapshot, StoreError> {
        let bytes = self.get(ObjectKind::Snapshot, id)?;
        Snapshot::decode(&bytes).map_err(|error| damaged(ObjectKind::Snapshot, id, &error))
    }

    /// Where a sparse file's holes are, in order, not touching.
    pub fn holes(&self, id: &ObjectId) -> Result<Vec<Extent>, StoreError> {
        let bytes = self.get(ObjectKind::Holes, id)?;
        holes::decode(&bytes).map_err(|error| damaged(ObjectKind::Holes, id, &error))
    }

    /// Opens a blob of `size` bytes. A small one is verified; of a large one the size is checked.
    pub fn open_blob(&self, id: &ObjectId, size: u64) -> Result<BlobReader, StoreError> {
        // A store whose limit was another may have it in the other place.
        if size >= self.backend.large_blob()
            && let Some(reader) = self.open_blob_file(id, size)?
        {
            return Ok(reader);
        }
        match self.get(ObjectKind::Blob, id) {
            Ok(bytes) if bytes.len() as u64 == size => Ok(BlobReader::Inline(bytes)),
            Ok(bytes) => Err(damaged_size(id, bytes.len() as u64, size)),
            Err(missing @ StoreError::Missing { .. }) => self.open_blob_file(id, size)?.ok_or(missing),
            Err(error) => Err(error),
        }
    }

    /// As [`open_blob`](Self::open_blob), but a small one is looked up and verified when it is first read.
    pub fn open_blob_later(&self, id: &ObjectId, size: u64) -> Result<BlobReader, StoreError> {
        if size >= self.backend.large_blob() {
            return self.open_blob(id, size);
        }
        Ok(BlobReader::Later(Arc::new(Later::new(self.clone(), *id, size))))
    }

    /// Keeps a blob that is at hand as a whole; tells its name and whether it is new.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<(ObjectId, bool), StoreError> {
        let mut writer = self.blob_writer();
        writer.write(bytes)?;
        writer.finish().map(|written| (written.id, written.new))
    }

    /// Keeps a blob that comes in pieces.
    pub fn blob_writer(&self) -> BlobWriter<'_> {
        BlobWriter::new(&*self.backend)
    }

    /// Keeps a tree; tells whether it is new.
    pub fn put_tree(&self, tree: &EncodedTree) -> Result<bool, StoreError> {
        self.backend.put(ObjectKind::Tree, &tree.id, &tree.bytes)
    }

    /// Keeps a snapshot and tells its name.
    pub fn put_snapshot(&self, snapshot: &Snapshot) -> Result<ObjectId, StoreError> {
        let bytes = snapshot.encode().map_err(StoreError::Encode)?;
        let id = ObjectKind::Snapshot.id(&bytes);
        self.backend.put(ObjectKind::Snapshot, &id, &bytes)?;
        Ok(id)
    }

    /// Whether there is such an object.
    pub fn has(&self, kind: ObjectKind, id: &ObjectId) -> Result<bool, StoreError> {
        self.backend.has(kind, id)
    }

    /// Makes everything put so far durable and visible to other processes. After the first failure
    /// that leaves the disk's state in doubt, all later writes are refused with
    /// [`StoreError::Latched`].
    pub fn sync(&self) -> Result<(), StoreError> {
        self.backend.sync()
    }

    /// The one snapshot whose id begins with `prefix`, 8 to 64 hexadecimal digits.
    pub fn resolve_snapshot(&self, prefix: &str) -> Result<ObjectId, ResolveError> {
        let digits = prefix.len();
        let padded = |digit: &str| format!("{prefix}{}", digit.repeat(64_usize.saturating_sub(digits)));
        let bounds = (padded("0").parse::<ObjectId>(), padded("f").parse::<ObjectId>());
        let (8..=64, (Ok(first), Ok(last))) = (digits, bounds) else {
            return Err(ResolveError::Syntax { text: prefix.to_owned() });
        };
        match *self.backend.list(ObjectKind::Snapshot, &first, &last, 2)? {
            [] => Err(ResolveError::NotFound { prefix: prefix.to_owned() }),
            [id] => Ok(id),
            _ => Err(ResolveError::Ambiguous { prefix: prefix.to_owned() }),
        }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    fn get(&self, kind: ObjectKind, id: &ObjectId) -> Result<Arc<[u8]>, StoreError> {
        let bytes = self.backend.get(kind, id)?.ok_or(StoreError::Missing { kind, id: *id })?;
        let actual = kind.id(&bytes);
        if actual == *id {
            Ok(bytes)
        } else {
            Err(StoreError::Damaged { kind, id: *id, reason: format!("its bytes have the hash {actual}") })
        }
    }

    fn open_blob_file(&self, id: &ObjectId, size: u64) -> Result<Option<BlobReader>, StoreError> {
        let Some(file) = self.backend.open_blob_file(id)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| damaged(ObjectKind::Blob, id, &error))?;
        if !metadata.is_file() || metadata.len() != size {
            return Err(damaged_size(id, metadata.len(), size));
        }
        Ok(Some(BlobReader::File(Arc::new(file))))
    }
}

fn damaged(kind: ObjectKind, id: &ObjectId, error: &dyn std::error::Error) -> StoreError {
    StoreError::Damaged { kind, id: *id, reason: error.to_string() }
}

fn damaged_size(id: &ObjectId, found: u64, expected: u64) -> StoreError {
    let reason = format!("it has {found} bytes, its file has {expected}");
    StoreError::Damaged { kind: ObjectKind::Blob, id: *id, reason }
}
