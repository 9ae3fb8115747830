//! What is open: handles that are never used twice, and one shared state for all handles of a file.

use crate::attr::Allocate;
use crate::error::{Result, ViewError};
use crate::layers::Layers;
use crate::open_flags::OpenFlags;
use crate::patched::{Patched, allocate, write_some};
use crate::request::Handle;
use selvedge_store::{BlobReader, Ino, LayerId};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Where an open file's bytes are read from.
#[derive(Debug)]
pub(crate) enum Content {
    /// The file is empty and has no working file.
    Empty,
    /// The store's.
    Blob(BlobReader),
    /// A working file of this layer. It is written only while the layer is the upper.
    File { layer: LayerId, file: File },
    /// A working file of this layer, written like any, over a blob.
    Patched { layer: LayerId, file: Patched },
}

/// A working file of the upper, to be changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Own<'a> {
    /// One that has all of the file's bytes.
    Whole(&'a File),
    /// One that has what was changed.
    Patched(&'a Patched),
}

impl<'a> Own<'a> {
    /// Writes as much as the disk takes. An error counts only if nothing was written.
    pub(crate) fn write_at(self, data: &[u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Whole(file) => write_some(file, data, offset),
            Self::Patched(file) => file.write_at(data, offset),
        }
    }

    pub(crate) fn set_len(self, size: u64) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.set_len(size),
            Self::Patched(file) => file.set_len(size),
        }
    }

    pub(crate) fn allocate(self, how: Allocate, offset: u64, len: u64) -> rustix::io::Result<()> {
        match self {
            Self::Whole(file) => allocate(file, how, offset, len),
            Self::Patched(file) => file.allocate(how, offset, len),
        }
    }

    /// The host's file.
    pub(crate) fn file(self) -> &'a File {
        match self {
            Self::Whole(file) => file,
            Self::Patched(file) => file.file(),
        }
    }
}

impl Content {
    /// The working file, if it is the upper's. It stays that for as long as the caller keeps the layers as they are.
    pub(crate) fn own(&self, layers: &Layers) -> Option<Own<'_>> {
        match self {
            Self::File { layer, file } if layers.is_upper(*layer) => Some(Own::Whole(file)),
            Self::Patched { layer, file } if layers.is_upper(*layer) => Some(Own::Patched(file)),
            Self::File { .. } | Self::Patched { .. } | Self::Blob(_) | Self::Empty => None,
        }
    }
}

/// The state that all handles of one regular file share, so that each sees the newest bytes after a copy-up.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) ino: Ino,
    content: RwLock<Arc<Content>>,
    /// Held while the content is replaced. Readers do not wait for it.
    pub(crate) replacing: Mutex<()>,
}

impl OpenFile {
    pub(crate) fn content(&self) -> Arc<Content> {
        Arc::clone(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, content: Content) -> Arc<Content> {
        let content = Arc::new(content);
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&content);
        content
    }
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenDir {
    pub(crate) ino: Ino,
}

#[derive(Debug, Clone)]
enum Open {
    File(Arc<OpenFile>, OpenFlags),
    /// Open on this connection since before this worker, which nobody has asked for the file yet.
    Inherited(Ino, OpenFlags),
    Dir(Arc<OpenDir>),
}

/// What a handle of a file leads to.
pub(crate) enum FileHandle {
    Open(Arc<OpenFile>, OpenFlags),
    /// The file has yet to be looked up.
    Inherited(Ino),
}

#[derive(Debug, Default)]
struct Uses {
    count: usize,
    file: Option<Arc<OpenFile>>,
}

#[derive(Debug, Default)]
struct Inner {
    handles: HashMap<Handle, Open>,
    uses: HashMap<Ino, Uses>,
}

/// All handles of a view.
#[derive(Debug, Default)]
pub(crate) struct OpenTable {
    inner: Mutex<Inner>,
}

/// Keeps a file's shared state for the length of one operation, opened or not.
pub(crate) struct Held<'a> {
    table: &'a OpenTable,
    pub(crate) file: Arc<OpenFile>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.table.inner().unuse(self.file.ino);
    }
}

impl OpenTable {
    /// The file's shared state; `content` tells its bytes if nobody has it open.
    pub(crate) fn hold(&self, ino: Ino, content: impl FnOnce() -> Result<Content>) -> Result<Held<'_>> {
        if let Some(file) = self.inner().reuse(ino) {
            return Ok(Held { table: self, file });
        }
        // Opening a blob reads the disk, so it happens outside the lock; whoever comes first is kept.
        let content = content()?;
        let mut inner = self.inner();
        if let Some(file) = inner.reuse(ino) {
            return Ok(Held { table: self, file });
        }
        let file =
            Arc::new(OpenFile { ino, content: RwLock::new(Arc::new(content)), replacing: Mutex::new(()) });
        let uses = inner.uses.entry(ino).or_default();
        uses.count += 1;
        uses.file = Some(Arc::clone(&file));
        Ok(Held { table: self, file })
    }

    /// Registers a handle. The same number again, from a request sent twice, changes nothing.
    pub(crate) fn add_file(&self, handle: Handle, held: &Held<'_>, flags: OpenFlags) {
        let mut inner = self.inner();
        if inner.handles.insert(handle, Open::File(Arc::clone(&held.file), flags)).is_none() {
            inner.uses.entry(held.file.ino).or_default().count += 1;
        }
    }

    /// Registers a file's handle that an earlier worker gave out. The file is looked up when it is used.
    pub(crate) fn inherit_file(&self, handle: Handle, ino: Ino, flags: OpenFlags) {
        let mut inner = self.inner();
        if inner.handles.insert(handle, Open::Inherited(ino, flags)).is_none() {
            inner.uses.entry(ino).or_default().count += 1;
        }
    }

    /// Gives an inherited handle the file that it leads to. Its use is counted already.
    pub(crate) fn settle_inherited(&self, handle: Handle, held: &Held<'_>) {
        let mut inner = self.inner();
        if let Some(open) = inner.handles.get_mut(&handle)
            && let Open::Inherited(_, flags) = *open
        {
            *open = Open::File(Arc::clone(&held.file), flags);
        }
    }

    /// Registers a handle of a directory.
    pub(crate) fn add_dir(&self, handle: Handle, ino: Ino) {
        let mut inner = self.inner();
        let dir = Arc::new(OpenDir { ino });
        if inner.handles.insert(handle, Open::Dir(dir)).is_none() {
            inner.uses.entry(ino).or_default().count += 1;
        }
    }

    pub(crate) fn file(&self, handle: Handle) -> Result<FileHandle> {
        match self.inner().handles.get(&handle) {
            Some(Open::File(file, flags)) => Ok(FileHandle::Open(Arc::clone(file), *flags)),
            Some(Open::Inherited(ino, _)) => Ok(FileHandle::Inherited(*ino)),
            Some(Open::Dir(_)) => Err(ViewError::IsDirectory),
            None => Err(ViewError::BadHandle),
        }
    }

    pub(crate) fn dir(&self, handle: Handle) -> Result<Arc<OpenDir>> {
        match self.inner().handles.get(&handle) {
            Some(Open::Dir(dir)) => Ok(Arc::clone(dir)),
            Some(Open::File(..) | Open::Inherited(..)) => Err(ViewError::NotDirectory),
            None => Err(ViewError::BadHandle),
        }
    }

    /// Forgets a handle; tells the node if nobody uses it any more. A second release does nothing.
    pub(crate) fn remove(&self, handle: Handle) -> Option<Ino> {
        let mut inner = self.inner();
        let ino = match inner.handles.remove(&handle)? {
            Open::File(file, _) => file.ino,
            Open::Inherited(ino, _) => ino,
            Open::Dir(dir) => dir.ino,
        };
        inner.unuse(ino).then_some(ino)
    }

    /// Whether anybody has the file open for writing.
    pub(crate) fn has_writers(&self, ino: Ino) -> bool {
        let is_writer = |open: &Open| match open {
            Open::File(file, flags) => file.ino == ino && flags.write,
            Open::Inherited(of, flags) => *of == ino && flags.write,
            Open::Dir(_) => false,
        };
        self.inner().handles.values().any(is_writer)
    }

    /// Files that somebody has open for writing, each once.
    pub(crate) fn writers(&self) -> Vec<Ino> {
        let mut writers: Vec<Ino> = (self.inner().handles.values())
            .filter_map(|open| match open {
                Open::File(file, flags) => flags.write.then_some(file.ino),
                Open::Inherited(ino, flags) => flags.write.then_some(*ino),
                Open::Dir(_) => None,
            })
            .collect();
        writers.sort_unstable();
        writers.dedup();
        writers
    }

    /// Whether anybody has the node open.
    pub(crate) fn in_use(&self, ino: Ino) -> bool {
        self.inner().uses.contains_key(&ino)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A thread that panicked ends the process (panic = "abort"); in tests the maps are whole at any point.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn reuse(&mut self, ino: Ino) -> Option<Arc<OpenFile>> {
        let uses = self.uses.get_mut(&ino)?;
        let file = uses.file.clone()?;
        uses.count += 1;
        Some(file)
    }

    /// Tells whether that was the last use.
    fn unuse(&mut self, ino: Ino) -> bool {
        let Some(uses) = self.uses.get_mut(&ino) else { return false };
        uses.count = uses.count.saturating_sub(1);
        if uses.count == 0 {
            self.uses.remove(&ino);
            return true;
        }
        false
    }
}
