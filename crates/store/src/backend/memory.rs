//! Objects in memory, for tests.

/// Objects in memory.
#[derive(Debug)]
pub struct MemoryBackend;
impl MemoryBackend {
    /// An empty store.
    pub fn new() -> Self {
        todo!()
    }
}
impl super::Backend for MemoryBackend {
    fn get(
        &self,
        kind: crate::ObjectKind,
        id: &crate::ObjectId,
    ) -> Result<Option<std::sync::Arc<[u8]>>, crate::StoreError> {
        todo!()
    }
    fn has(&self, kind: crate::ObjectKind, id: &crate::ObjectId) -> Result<bool, crate::StoreError> {
        todo!()
    }
    fn put(
        &self,
        kind: crate::ObjectKind,
        id: &crate::ObjectId,
        bytes: &[u8],
    ) -> Result<bool, crate::StoreError> {
        todo!()
    }
    fn stage_blob(&self) -> Result<super::StagedBlob, crate::StoreError> {
        todo!()
    }
    fn put_blob_file(
        &self,
        id: &crate::ObjectId,
        staged: super::StagedBlob,
    ) -> Result<bool, crate::StoreError> {
        todo!()
    }
    fn open_blob_file(&self, id: &crate::ObjectId) -> Result<Option<std::fs::File>, crate::StoreError> {
        todo!()
    }
    fn large_blob(&self) -> u64 {
        todo!()
    }
    fn sync(&self) -> Result<(), crate::StoreError> {
        todo!()
    }
    fn list(
        &self,
        kind: crate::ObjectKind,
        first: &crate::ObjectId,
        last: &crate::ObjectId,
        limit: usize,
    ) -> Result<Vec<crate::ObjectId>, crate::StoreError> {
        todo!()
    }
}
