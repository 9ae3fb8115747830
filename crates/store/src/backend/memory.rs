//! Objects in memory.

use super::{Backend, StagedBlob};
use crate::gc::Removed;
use crate::{ObjectId, ObjectKind, StoreError};
use rustix::fs::MemfdFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Blobs of at least this many bytes get a file of their own, so that small tests reach that path.
const LARGE_BLOB: u64 = 4096;

/// Objects in memory: for tests, and for trees that are looked at once.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    objects: BTreeMap<(ObjectKind, ObjectId), Arc<[u8]>>,
    files: BTreeMap<ObjectId, File>,
}

impl MemoryBackend {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> StoreError {
    move |source| StoreError::Io { path: PathBuf::from("memory"), what, source }
}

impl Backend for MemoryBackend {
    fn get(&self, kind: ObjectKind, id: &ObjectId) -> Result<Option<Arc<[u8]>>, StoreError> {
        Ok(self.held().objects.get(&(kind, *id)).map(Arc::clone))
    }

    fn has(&self, kind: ObjectKind, id: &ObjectId) -> Result<bool, StoreError> {
        let held = self.held();
        let file = kind == ObjectKind::Blob && held.files.contains_key(id);
        Ok(file || held.objects.contains_key(&(kind, *id)))
    }

    fn put(&self, kind: ObjectKind, id: &ObjectId, bytes: &[u8]) -> Result<bool, StoreError> {
        if self.has(kind, id)? {
            return Ok(false);
        }
        Ok(self.held().objects.insert((kind, *id), Arc::from(bytes)).is_none())
    }

    fn stage_blob(&self) -> Result<StagedBlob, StoreError> {
        let file = rustix::fs::memfd_create("selvedge-blob", MemfdFlags::CLOEXEC)
            .map_err(|error| failed("cannot make a file in memory")(error.into()))?;
        Ok(StagedBlob { file: file.into(), path: None })
    }

    fn put_blob_file(&self, id: &ObjectId, staged: StagedBlob) -> Result<bool, StoreError> {
        let file = staged.file.try_clone().map_err(failed("cannot keep a file in memory"))?;
        Ok(self.held().files.insert(*id, file).is_none())
    }

    fn remove(&self, kind: ObjectKind, ids: &[ObjectId]) -> Result<Removed, StoreError> {
        let mut held = self.held();
        let mut removed = Removed::default();
        for id in ids {
            let bytes = held.objects.remove(&(kind, *id)).map(|bytes| bytes.len() as u64);
            let file = if kind == ObjectKind::Blob { held.files.remove(id) } else { None };
            let file = file.map(|file| file.metadata().map_or(0, |metadata| metadata.len()));
            removed.count += u64::from(bytes.is_some() || file.is_some());
            removed.bytes += bytes.unwrap_or(0) + file.unwrap_or(0);
        }
        Ok(removed)
    }

    fn open_blob_file(&self, id: &ObjectId) -> Result<Option<File>, StoreError> {
        let held = self.held();
        held.files.get(id).map(File::try_clone).transpose().map_err(failed("cannot open a file in memory"))
    }

    fn large_blob(&self) -> u64 {
        LARGE_BLOB
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn list(
        &self,
        kind: ObjectKind,
        first: &ObjectId,
        last: &ObjectId,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        let held = self.held();
        let range = (kind, *first)..=(kind, *last);
        let mut names: Vec<_> = held.objects.range(range).map(|((_, id), _)| *id).collect();
        if kind == ObjectKind::Blob {
            names.extend(held.files.range(*first..=*last).map(|(id, _)| *id));
            names.sort_unstable();
            names.dedup();
        }
        names.truncate(limit);
        Ok(names)
    }
}
