//! A thread as it is now, as something to export.

use crate::dir_stream::DOT_DOT;
use crate::error::ViewError;
use crate::inode::Body;
use crate::open_table::Content;
use crate::tables::Node as ViewNode;
use crate::view::View;
use selvedge_store::export::{FileReader, Node, Shape, Source, SourceError};
use selvedge_store::{BlobCheck, Content as Stored, Extent, FileKind, Ino, ObjectId};
use std::io;
use std::sync::Arc;

impl Source for View {
    fn root(&self) -> Result<Node, SourceError> {
        Ok(self.export_node(&self.state().node(self.root())?)?)
    }

    fn children(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, SourceError> {
        let state = self.state();
        let ino = directory.meta.ino;
        let Some(listing) = unless_gone(state.list(ino))? else { return Ok(Vec::new()) };
        let entries = listing.after(DOT_DOT);
        let mut names: Vec<_> = entries.map(|entry| (entry.name.to_vec(), entry.ino)).collect();
        names.sort_unstable();
        let mut children = Vec::with_capacity(names.len());
        for (name, ino) in names {
            // A name that went since the listing is one that was not there.
            if let Some(node) = unless_gone(state.node(ino).and_then(|node| self.export_node(&node)))? {
                children.push((name, node));
            }
        }
        Ok(children)
    }

    fn is_there(&self, directory: &Node) -> Result<bool, SourceError> {
        Ok(unless_gone(self.state().node(directory.meta.ino))?.is_some_and(|node| node.inode.nlink > 0))
    }

    fn open(&self, file: &Node) -> Result<Option<Box<dyn FileReader>>, SourceError> {
        let reader = unless_gone(self.open_source(file.meta.ino))?;
        Ok(reader.map(|reader| Box::new(reader) as Box<dyn FileReader>))
    }
}

/// `None` for what was deleted since it was listed.
pub(crate) fn unless_gone<T>(found: crate::error::Result<T>) -> crate::error::Result<Option<T>> {
    match found {
        Err(ViewError::NotFound) => Ok(None),
        found => found.map(Some),
    }
}

impl View {
    pub(crate) fn open_source(&self, ino: Ino) -> crate::error::Result<OpenSource> {
        let state = self.state();
        // Bytes may be written while they are exported: whoever has the file open shares the state that is read.
        let held = state.hold(ino)?;
        let node = state.node(ino)?;
        // While it is held its content becomes another only by being its own: a blob is the one that the node names.
        let content = held.file.content();
        let attr = state.attr(&node)?;
        if attr.nlink == 0 {
            // Whoever has it open still can read it, but it is in no directory any more.
            return Err(ViewError::NotFound);
        }
        let size = attr.size;
        let data = state.data_of(&node, &content, size)?;
        let blob = match &node.inode.body {
            Body::Blob { id, size: whole, .. } if *whole == size => Some(*id),
            _ => None,
        };
        Ok(OpenSource { content, blob, size, data })
    }

    pub(crate) fn export_node(&self, node: &ViewNode) -> crate::error::Result<Node> {
        let attr = self.state().attr(node)?;
        let inode = &node.inode;
        let meta = attr.meta(inode);
        let shape = match inode.kind {
            FileKind::Regular => Shape::Regular { size: attr.size },
            FileKind::Directory => Shape::Directory,
            FileKind::Symlink => match &inode.body {
                Body::Target(target) => Shape::Symlink { target: target.clone() },
                _ => return Err(ViewError::Damaged { ino: inode.ino, why: "a link to nowhere".to_owned() }),
            },
            FileKind::Fifo => Shape::Fifo,
            FileKind::Socket => Shape::Socket,
            FileKind::CharDevice => Shape::CharDevice { rdev: inode.rdev },
            FileKind::BlockDevice => Shape::BlockDevice { rdev: inode.rdev },
        };
        let stored = match &inode.body {
            Body::Blob { id, size, holes } => Some(Stored::Regular { blob: *id, size: *size, holes: *holes }),
            _ => None,
        };
        Ok(Node { meta, shape, stored })
    }
}

pub(crate) struct OpenSource {
    content: Arc<Content>,
    /// What the node's bytes are in the store, if they are there.
    blob: Option<ObjectId>,
    size: u64,
    data: Vec<Extent>,
}

impl FileReader for OpenSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> io::Result<Vec<Extent>> {
        Ok(self.data.clone())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.content.read_at(buffer, offset)
    }

    fn check(&self) -> Option<BlobCheck> {
        match (&*self.content, self.blob) {
            (Content::Blob(blob), Some(id)) => BlobCheck::begin(blob, id, self.size, &self.data),
            _ => None,
        }
    }
}
