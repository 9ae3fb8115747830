//! What is open: handles that are never used twice, and one shared state for all handles of a file.

use crate::attr::Allocate;
use crate::contents::sync_file;
use crate::coverage::Coverage;
use crate::error::{Result, ViewError};
use crate::layers::Layers;
use crate::open_flags::OpenFlags;
use crate::passthrough::{LastPassed, Opens, Way};
use crate::patched::{Patched, allocate, write_some};
use crate::request::Handle;
use foldhash::HashMap;
use selvedge_store::{BlobReader, Ino, LayerId};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
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

impl Own<'_> {
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

    /// Makes it durable; tells which parts of it are, unless it is whole.
    pub(crate) fn sync(self, data_only: bool) -> io::Result<Option<Coverage>> {
        match self {
            Self::Whole(file) if data_only => file.sync_data().map(|()| None),
            Self::Whole(file) => file.sync_all().map(|()| None),
            Self::Patched(file) => sync_file(file.file(), data_only),
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
    File(Arc<OpenFile>, OpenFlags, Way),
    /// Open on this connection since before this worker, which nobody has asked for the file yet.
    Inherited(Ino, OpenFlags, Way),
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
    /// How many of them are handles whose reads and writes come to us.
    served: usize,
    file: Option<Arc<OpenFile>>,
}

/// A file that somebody may read or write past us: by a handle, or by a mapping that outlives its handle.
#[derive(Debug, Clone, Copy, Default)]
struct Passed {
    handles: usize,
    /// Somebody may write it.
    written: bool,
    /// The catalog's log was made durable since.
    durable_row: bool,
}

/// A file that is passed through, as [`OpenTable::passed`] tells of it.
#[derive(Debug, Clone)]
pub(crate) struct PassedFile {
    pub(crate) ino: Ino,
    /// Whether it has a handle; without one, mappings alone can keep it passed through.
    pub(crate) open: bool,
    pub(crate) file: Option<Arc<OpenFile>>,
}

/// What the release of a handle came to.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) ino: Ino,
    /// Nobody uses the node any more.
    pub(crate) unused: bool,
    /// What it led to, if it was the last handle that led past us.
    pub(crate) last_passed: Option<LastPassed>,
}

#[derive(Debug, Default)]
struct Inner {
    handles: HashMap<Handle, Open>,
    uses: HashMap<Ino, Uses>,
    passed: HashMap<Ino, Passed>,
}

/// All handles of a view.
#[derive(Debug, Default)]
pub(crate) struct OpenTable {
    inner: Mutex<Inner>,
    /// How many files are passed through, for those who need not look when there are none.
    passed: AtomicUsize,
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

/// An open file that is used by one operation.
pub(crate) enum Using<'a> {
    /// One that has a handle.
    Opened(Arc<OpenFile>),
    /// One that the kernel has opened without asking.
    Held(Held<'a>),
}

impl Deref for Using<'_> {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        match self {
            Self::Opened(file) => file,
            Self::Held(held) => &held.file,
        }
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

    /// Registers a handle whose reads and writes come to us. The same number again, from a request sent twice, changes
    /// nothing.
    pub(crate) fn add_file(&self, handle: Handle, held: &Held<'_>, flags: OpenFlags) {
        let _ = self.add_file_by(handle, held, flags, |_| Way::Served);
    }

    /// Registers a handle in the way that `choose` says, unless it says that the file has to be made first. The same
    /// number again, from a request sent twice, keeps the way it has.
    pub(crate) fn add_file_by(
        &self,
        handle: Handle,
        held: &Held<'_>,
        flags: OpenFlags,
        choose: impl FnOnce(Opens) -> Way,
    ) -> Way {
        let mut inner = self.inner();
        let ino = held.file.ino;
        if let Some(Open::File(_, _, way) | Open::Inherited(_, _, way)) = inner.handles.get(&handle) {
            let way = *way;
            inner.handles.insert(handle, Open::File(Arc::clone(&held.file), flags, way));
            return way;
        }
        let way = choose(Opens {
            served: inner.uses.get(&ino).is_some_and(|uses| uses.served > 0),
            passed: inner.passed.contains_key(&ino),
        });
        if way != Way::Make {
            inner.handles.insert(handle, Open::File(Arc::clone(&held.file), flags, way));
            self.count(&mut inner, ino, flags, way);
        }
        way
    }

    fn count(&self, inner: &mut Inner, ino: Ino, flags: OpenFlags, way: Way) {
        let uses = inner.uses.entry(ino).or_default();
        uses.count += 1;
        if way == Way::Passed {
            let passed = inner.passed.entry(ino).or_default();
            passed.handles += 1;
            passed.written |= flags.write;
        } else {
            uses.served += 1;
        }
        self.passed.store(inner.passed.len(), Ordering::Release);
    }

    /// Has the reads and writes of a handle come to us after all. The kernel has not been told otherwise.
    pub(crate) fn serve_after_all(&self, handle: Handle) {
        let mut inner = self.inner();
        let Some(Open::File(file, _, way @ Way::Passed)) = inner.handles.get_mut(&handle) else { return };
        let ino = file.ino;
        *way = Way::Served;
        inner.uses.entry(ino).or_default().served += 1;
        if let Some(passed) = inner.passed.get_mut(&ino) {
            passed.handles = passed.handles.saturating_sub(1);
            if passed.handles == 0 {
                // From here on every handle of the file is served.
                inner.passed.remove(&ino);
                self.passed.store(inner.passed.len(), Ordering::Release);
            }
        }
    }

    /// Takes note that rows are made durable now; tells whether that is news for any file that is written past us.
    pub(crate) fn note_durable_rows(&self) -> bool {
        if self.passed.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut any = false;
        for passed in self.inner().passed.values_mut().filter(|passed| passed.written && !passed.durable_row)
        {
            passed.durable_row = true;
            any = true;
        }
        any
    }

    /// Registers a file's handle that an earlier worker gave out. The file is looked up when it is used.
    pub(crate) fn inherit_file(&self, handle: Handle, ino: Ino, flags: OpenFlags, way: Way) {
        let mut inner = self.inner();
        if inner.handles.insert(handle, Open::Inherited(ino, flags, way)).is_none() {
            self.count(&mut inner, ino, flags, way);
        }
    }

    /// Registers a file that an earlier worker passed through, and that mappings may still be of.
    pub(crate) fn inherit_passed(&self, ino: Ino) {
        let mut inner = self.inner();
        inner.passed.entry(ino).or_default().written = true;
        self.passed.store(inner.passed.len(), Ordering::Release);
    }

    /// Whether the file may be read or written past us.
    pub(crate) fn is_passed(&self, ino: Ino) -> bool {
        self.passed.load(Ordering::Acquire) > 0 && self.inner().passed.contains_key(&ino)
    }

    /// Whether the file may be written past us.
    pub(crate) fn is_written_past(&self, ino: Ino) -> bool {
        self.passed.load(Ordering::Acquire) > 0
            && self.inner().passed.get(&ino).is_some_and(|passed| passed.written)
    }

    /// Whether the file has a handle that leads past us.
    pub(crate) fn has_passed_handles(&self, ino: Ino) -> bool {
        self.inner().passed.get(&ino).is_some_and(|passed| passed.handles > 0)
    }

    /// All files that may be read or written past us.
    pub(crate) fn passed(&self) -> Vec<PassedFile> {
        if self.passed.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let inner = self.inner();
        let file = |ino| inner.uses.get(ino).and_then(|uses| uses.file.clone());
        let passed = inner.passed.iter();
        passed
            .map(|(ino, passed)| PassedFile { ino: *ino, open: passed.handles > 0, file: file(ino) })
            .collect()
    }

    /// Takes note that nobody reads or writes the file past us any more; tells whether anybody could have written it.
    /// A file with such a handle stays as it is.
    pub(crate) fn let_go(&self, ino: Ino) -> bool {
        let mut inner = self.inner();
        let free = inner.passed.get(&ino).copied().filter(|passed| passed.handles == 0);
        if free.is_some() {
            inner.passed.remove(&ino);
            self.passed.store(inner.passed.len(), Ordering::Release);
        }
        free.is_some_and(|passed| passed.written)
    }

    /// Gives an inherited handle the file that it leads to. Its use is counted already.
    pub(crate) fn settle_inherited(&self, handle: Handle, held: &Held<'_>) {
        let mut inner = self.inner();
        if let Some(open) = inner.handles.get_mut(&handle)
            && let Open::Inherited(_, flags, way) = *open
        {
            *open = Open::File(Arc::clone(&held.file), flags, way);
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
            Some(Open::File(file, flags, _)) => Ok(FileHandle::Open(Arc::clone(file), *flags)),
            Some(Open::Inherited(ino, ..)) => Ok(FileHandle::Inherited(*ino)),
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

    /// Forgets a handle; a second release does nothing.
    pub(crate) fn remove(&self, handle: Handle) -> Option<Removed> {
        let mut inner = self.inner();
        let (ino, way, content) = match inner.handles.remove(&handle)? {
            Open::File(file, _, way) => (file.ino, Some(way), Some(file.content())),
            Open::Inherited(ino, _, way) => (ino, Some(way), None),
            Open::Dir(dir) => (dir.ino, None, None),
        };
        let mut last_passed = None;
        match way {
            Some(Way::Passed) => {
                if let Some(passed) = inner.passed.get_mut(&ino) {
                    passed.handles = passed.handles.saturating_sub(1);
                    last_passed = (passed.handles == 0).then(|| LastPassed::of(content));
                }
            }
            Some(Way::Served | Way::Make) => {
                if let Some(uses) = inner.uses.get_mut(&ino) {
                    uses.served = uses.served.saturating_sub(1);
                }
            }
            None => {}
        }
        Some(Removed { ino, unused: inner.unuse(ino), last_passed })
    }

    /// Whether anybody has the file open for writing, and not past us.
    pub(crate) fn has_writers(&self, ino: Ino) -> bool {
        let inner = self.inner();
        inner.handles.values().any(|open| open.served_writer() == Some(ino))
    }

    /// Whether anybody has the file open for writing, past us or not.
    pub(crate) fn may_be_written(&self, ino: Ino) -> bool {
        self.inner().handles.values().any(|open| open.ino() == ino && open.writes())
    }

    /// Files that somebody has open for writing, and not past us, each once.
    pub(crate) fn writers(&self) -> Vec<Ino> {
        let mut writers: Vec<Ino> = self.inner().handles.values().filter_map(Open::served_writer).collect();
        writers.sort_unstable();
        writers.dedup();
        writers
    }

    /// The handles of a node.
    pub(crate) fn handles_of(&self, ino: Ino) -> Vec<Handle> {
        let inner = self.inner();
        let handles = inner.handles.iter();
        handles.filter(|(_, open)| open.ino() == ino).map(|(handle, _)| *handle).collect()
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

impl Open {
    fn ino(&self) -> Ino {
        match self {
            Self::File(file, ..) => file.ino,
            Self::Inherited(ino, ..) => *ino,
            Self::Dir(dir) => dir.ino,
        }
    }

    fn writes(&self) -> bool {
        match self {
            Self::File(_, flags, _) | Self::Inherited(_, flags, _) => flags.write,
            Self::Dir(_) => false,
        }
    }

    fn served_writer(&self) -> Option<Ino> {
        match self {
            Self::File(file, flags, Way::Served) => flags.write.then_some(file.ino),
            Self::Inherited(ino, flags, Way::Served) => flags.write.then_some(*ino),
            Self::File(..) | Self::Inherited(..) | Self::Dir(_) => None,
        }
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
