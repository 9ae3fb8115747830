//! A snapshot as something to export.

use super::source::{FileReader, Node, Shape, Source, SourceError};
use crate::{BlobCheck, BlobReader, Content, Entry, Extent, ObjectId, Store, StoreError, holes};
use std::io;

/// A snapshot as a [`Source`].
pub struct SnapshotSource {
    store: Store,
    root: Node,
}

impl SnapshotSource {
    /// The snapshot of that name.
    pub fn new(store: Store, snapshot: &ObjectId) -> Result<Self, StoreError> {
        let root = store.snapshot(snapshot)?.root.into();
        Ok(Self { store, root })
    }
}

impl From<Entry> for Node {
    fn from(entry: Entry) -> Self {
        let shape = match &entry.content {
            Content::Regular { size, .. } => Shape::Regular { size: *size },
            Content::Directory { .. } => Shape::Directory,
            Content::Symlink { target } => Shape::Symlink { target: target.clone() },
            Content::Fifo => Shape::Fifo,
            Content::Socket => Shape::Socket,
            Content::CharDevice { rdev } => Shape::CharDevice { rdev: *rdev },
            Content::BlockDevice { rdev } => Shape::BlockDevice { rdev: *rdev },
        };
        Self { meta: entry.meta, shape, stored: Some(entry.content) }
    }
}

impl Source for SnapshotSource {
    fn root(&self) -> Result<Node, SourceError> {
        Ok(self.root.clone())
    }

    fn children(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, SourceError> {
        let Some(Content::Directory { tree, .. }) = &directory.stored else {
            return Err("not a directory of a snapshot".into());
        };
        let tree = self.store.tree(tree)?;
        Ok(tree.iter().map(|(name, entry)| (name.to_vec(), entry.into())).collect())
    }

    fn open(&self, file: &Node) -> Result<Option<Box<dyn FileReader>>, SourceError> {
        let Some(content) = &file.stored else { return Err("not a file of a snapshot".into()) };
        Ok(Some(Box::new(StoredFile::open(&self.store, content)?)))
    }
}

/// A regular file whose bytes are in the store.
#[derive(Debug)]
pub struct StoredFile {
    blob: BlobReader,
    id: ObjectId,
    size: u64,
    data: Vec<Extent>,
}

impl StoredFile {
    /// Opens the file that `content` describes, which is [`Content::Regular`].
    pub fn open(store: &Store, content: &Content) -> Result<Self, SourceError> {
        let Content::Regular { blob, size, holes } = content else {
            return Err("not a regular file".into());
        };
        let holes = holes.map(|id| store.holes(&id)).transpose()?.unwrap_or_default();
        Ok(Self {
            blob: store.open_blob(blob, *size)?,
            id: *blob,
            size: *size,
            data: holes::between_holes(&holes, *size),
        })
    }
}

impl FileReader for StoredFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> io::Result<Vec<Extent>> {
        Ok(self.data.clone())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.blob.read_at(buffer, offset)
    }

    fn check(&self) -> Option<BlobCheck> {
        BlobCheck::begin(&self.blob, self.id, self.size, &self.data)
    }
}
