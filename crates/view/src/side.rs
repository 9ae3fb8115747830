//! A thread as it is now, as one side of a comparison.

use crate::catalog::NameRow;
use crate::changed::Changed;
use crate::error::{self, ViewError};
use crate::inode::{Body, Inode};
use crate::patched::Patched;
use crate::source::unless_gone;
use crate::tables::Node;
use crate::view::View;
use foldhash::HashMap;
use selvedge_store::compare::{Body as ItemBody, Item, Side, StoredTree};
use selvedge_store::export::{FileReader, SourceError};
use selvedge_store::{BlobReader, Content, Entry, Extent, FileKind, Ino, ObjectId, Tree};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// A view, with what has changed in it when the comparison began: the rest is what the base has, and need not be
/// looked at.
#[derive(Debug)]
pub struct ViewSide {
    view: View,
    changed: Changed,
}

impl ViewSide {
    /// The thread that `view` is of.
    pub fn new(view: View) -> error::Result<Self> {
        let changed = view.changed()?;
        Ok(Self { view, changed })
    }

    /// The view, to be closed.
    pub fn into_view(self) -> View {
        self.view
    }
}

impl Side for ViewSide {
    fn root(&self) -> Result<Item, SourceError> {
        Ok(self.view.root_item(&self.changed)?)
    }

    fn children(&self, directory: &Item) -> Result<Vec<(Vec<u8>, Item)>, SourceError> {
        Ok(self.view.child_items(directory.ino, &self.changed)?)
    }

    fn open(&self, file: &Item) -> Result<Option<Box<dyn FileReader>>, SourceError> {
        let reader = unless_gone(self.view.open_source(file.ino))?;
        Ok(reader.map(|reader| Box::new(reader) as Box<dyn FileReader>))
    }
}

/// The bytes of a regular file, for another process to read.
#[derive(Debug)]
pub enum FileBytes {
    /// The host's file that has them, open for reading.
    File(File),
    /// The host's file that has those which changed, open for reading; the rest are those of a blob.
    Patched {
        /// That file.
        file: File,
        /// The blob.
        blob: ObjectId,
        /// The blob's length.
        size: u64,
    },
    /// There are none.
    Empty,
    /// The store has them, in the blob that the file's [`Item`] names.
    Stored(Item),
}

/// The bytes of a file that changed in part.
#[derive(Debug)]
pub struct PatchedBytes {
    patched: Patched,
    size: u64,
}

impl PatchedBytes {
    /// Those of the file `ino`, whose [`FileBytes::Patched`] another process gave us, `under` being that blob.
    ///
    /// # Errors
    /// When the file does not say which parts it has.
    pub fn open(ino: Ino, file: File, under: BlobReader) -> error::Result<Self> {
        let size = file.metadata().map_err(ViewError::host("stat a working file"))?.len();
        Ok(Self { patched: Patched::open(ino, file, under, false)?, size })
    }
}

impl FileReader for PatchedBytes {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { offset: 0, len: self.size }])
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.patched.read_at(buffer, offset)
    }
}

/// The base's names of a directory, if it has any, and what the layers say of its names.
type Names = (Option<Arc<Tree>>, HashMap<Vec<u8>, NameRow>);

impl View {
    /// The root directory, for a comparison; `changed` as [`View::changed`] told it.
    pub fn root_item(&self, changed: &Changed) -> error::Result<Item> {
        let state = self.state();
        let root = self.root();
        let mut item = self.item(&state.node(root)?)?;
        if !changed.directories.contains(&root) {
            set_stored(&mut item, state.base().root_entry());
        }
        Ok(item)
    }

    /// What is in the directory `ino`, in the order of names: nothing, if it is gone.
    pub fn child_items(&self, ino: Ino, changed: &Changed) -> error::Result<Vec<(Vec<u8>, Item)>> {
        let Some((base, rows)) = unless_gone(self.names_of(ino))? else { return Ok(Vec::new()) };
        let base = base.as_deref();
        let mut children = BTreeMap::new();
        for (name, child, _) in base.iter().flat_map(|tree| tree.iter_names()) {
            if !rows.contains_key(name) {
                children.insert(name.to_vec(), child);
            }
        }
        for (name, row) in rows {
            if let NameRow::Node { ino, .. } = row {
                children.insert(name, ino);
            }
        }
        let mut items = Vec::with_capacity(children.len());
        for (name, child) in children {
            // A name that went since it was listed is one that was not there.
            if let Some(item) = unless_gone(self.child_item(ino, base, &name, child, changed))? {
                items.push((name, item));
            }
        }
        Ok(items)
    }

    /// The bytes of the regular file `ino`; `None` if it is gone.
    pub fn file_bytes(&self, ino: Ino) -> error::Result<Option<FileBytes>> {
        unless_gone(self.bytes_of(ino))
    }

    fn bytes_of(&self, ino: Ino) -> error::Result<FileBytes> {
        let state = self.state();
        let node = state.node(ino)?;
        if node.inode.kind != FileKind::Regular {
            return Err(ViewError::Invalid("not a regular file"));
        }
        if node.inode.nlink == 0 {
            return Err(ViewError::NotFound);
        }
        match &node.inode.body {
            Body::File { layer } => {
                let file = state.files(*layer, ino)?.open_file(ino, false)?;
                Ok(file.map_or(FileBytes::Empty, FileBytes::File))
            }
            Body::Patched(patch) => {
                let file = state.files(patch.layer, ino)?.open_patched(ino, false)?;
                Ok(FileBytes::Patched { file, blob: patch.blob, size: patch.size })
            }
            _ => self.item(&node).map(FileBytes::Stored),
        }
    }

    fn names_of(&self, ino: Ino) -> error::Result<Names> {
        let state = self.state();
        state.warm(ino)?;
        let (inode, rows) = {
            let mut tables = state.tables();
            (state.node_in(&mut tables, ino)?.inode, tables.names(ino)?)
        };
        if !inode.is_dir() || inode.nlink == 0 {
            return Err(ViewError::NotFound);
        }
        Ok((inode.tree().map(|tree| state.base().tree(tree)).transpose()?, rows))
    }

    /// What is called `name` in `parent`. The base's own entry spares looking for the number.
    fn child_item(
        &self,
        parent: Ino,
        base: Option<&Tree>,
        name: &[u8],
        ino: Ino,
        changed: &Changed,
    ) -> error::Result<Item> {
        let state = self.state();
        let entry = base.and_then(|tree| tree.lookup(name)).filter(|entry| entry.meta.ino == ino);
        let row = state.tables().row(ino)?;
        let node = match (row, &entry) {
            (Some(node), _) => node,
            (None, Some(entry)) => Node::of_base(Inode::from_entry(entry, Some(parent))),
            (None, None) => state.node(ino)?,
        };
        let mut item = self.item(&node)?;
        if let Some(entry) = entry
            && !changed.directories.contains(&ino)
        {
            set_stored(&mut item, &entry);
        }
        Ok(item)
    }

    fn item(&self, node: &Node) -> error::Result<Item> {
        Ok(Item::from(&self.export_node(node)?))
    }
}

/// Notes that a directory is the one that `entry` names, with everything beneath it.
fn set_stored(item: &mut Item, entry: &Entry) {
    if let (ItemBody::Directory { stored }, Content::Directory { tree, digest }) =
        (&mut item.body, &entry.content)
    {
        *stored = Some(StoredTree { tree: *tree, digest: Some(*digest) });
    }
}
