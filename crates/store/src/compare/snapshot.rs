//! A snapshot as one side of a comparison.

use super::Side;
use super::item::{Body, Item};
use crate::export::{FileReader, Node, SourceError, StoredFile};
use crate::{Content, ObjectId, Store, StoreError};

/// A snapshot, or a stored directory of one.
#[derive(Clone)]
pub struct SnapshotSide {
    store: Store,
    root: Item,
}

impl SnapshotSide {
    /// The snapshot of that name.
    pub fn new(store: Store, snapshot: &ObjectId) -> Result<Self, StoreError> {
        let root = Item::from(&Node::from(store.snapshot(snapshot)?.root));
        Ok(Self { store, root })
    }

    /// What is in the stored directory `tree`.
    pub fn list(store: &Store, tree: &ObjectId) -> Result<Vec<(Vec<u8>, Item)>, StoreError> {
        let tree = store.tree(tree)?;
        Ok(tree.iter().map(|(name, entry)| (name.to_vec(), Item::from(&Node::from(entry)))).collect())
    }

    /// Opens the blob `blob` of `size` bytes.
    pub fn open_blob(store: &Store, blob: ObjectId, size: u64) -> Result<Box<dyn FileReader>, SourceError> {
        // Where its holes are makes no difference to its bytes.
        Ok(Box::new(StoredFile::open(store, &Content::Regular { blob, size, holes: None })?))
    }
}

impl Side for SnapshotSide {
    fn root(&self) -> Result<Item, SourceError> {
        Ok(self.root.clone())
    }

    fn children(&self, directory: &Item) -> Result<Vec<(Vec<u8>, Item)>, SourceError> {
        match &directory.body {
            Body::Directory { stored: Some(stored) } => Ok(Self::list(&self.store, &stored.tree)?),
            _ => Err("not a directory of a snapshot".into()),
        }
    }

    fn open(&self, file: &Item) -> Result<Option<Box<dyn FileReader>>, SourceError> {
        match file.body {
            Body::Regular { size, blob: Some(blob) } => Self::open_blob(&self.store, blob, size).map(Some),
            _ => Err("not a file of a snapshot".into()),
        }
    }
}
