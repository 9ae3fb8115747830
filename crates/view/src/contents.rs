//! Operations on the bytes of regular files: open, read, write, truncate, fsync, release; copy-up.

use crate::change::Change;
use crate::coverage::Coverage;
use crate::crash;
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode, Patch};
use crate::layers::Upper;
use crate::open_flags::OpenFlags;
use crate::open_table::{Content, Held, OpenFile, Own, Using};
use crate::passthrough::LastPassed;
use crate::patched::{Patched, data_extents};
use crate::request::{Handle, Request, Via};
use crate::state::State;
use crate::tables::{Node, Origin};
use crate::view::View;
use crate::working_files::stat_open;
use foldhash::HashSet;
use selvedge_store::{BlobReader, Extent, FileKind, Ino, LayerId, ObjectId, between_holes};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

/// Bytes moved at once when a copy cannot be left to the kernel.
const COPY_BLOCK: usize = 128 * 1024;

/// Rows that are written in one commit when many files have become durable: it holds the tables, and others wait for them.
const CONFIRMED_AT_ONCE: usize = 256;

impl View {
    /// Opens a regular file.
    pub fn open_file(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Result<Handle> {
        if flags.write {
            self.state().check_writable()?;
        }
        let node = self.state().node(ino)?;
        self.open_node(request, &node, flags)
    }

    pub(crate) fn open_node(&self, request: &Request, node: &Node, flags: OpenFlags) -> Result<Handle> {
        let held = self.state().hold_regular(node)?;
        let handle = Handle(request.key.unique);
        self.state().open.add_file(handle, &held, flags);
        Ok(handle)
    }

    /// Reads `size` bytes at `offset`; fewer only at the end of the file.
    pub fn read(&self, via: impl Into<Via>, offset: u64, size: u32) -> Result<Vec<u8>> {
        let mut buffer = vec![0; size as usize];
        let filled = self.read_into(via, offset, &mut buffer)?;
        buffer.truncate(filled);
        Ok(buffer)
    }

    /// Fills `buffer` with the bytes at `offset` and tells how many there are: fewer only at the end of the file.
    pub fn read_into(&self, via: impl Into<Via>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let (file, _) = self.state().file_of(via.into())?;
        let content = file.content();
        if let Content::Patched { .. } = &*content {
            self.state().wholes.used(file.ino);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match content.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ViewError::Host { what: "read", source }),
            }
        }
        Ok(filled)
    }

    /// Writes `data` at `offset` and tells how much of it: less only where the disk is full. The kernel sends appends with the offset they go to, so a write that is
    /// sent twice writes the same bytes to the same place.
    pub fn write(&self, via: impl Into<Via>, offset: u64, data: &[u8]) -> Result<u32> {
        let state = self.state();
        state.check_writable()?;
        let (file, flags) = state.file_of(via.into())?;
        if !flags.write {
            return Err(ViewError::BadHandle);
        }
        state.keep_times(file.ino)?;
        let write = |own: Own<'_>| {
            crash::point("write.before");
            own.write_at(data, offset)
        };
        let written = match state.on_own_file(&file, u64::MAX, write)? {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && self.reap_now() => {
                state.on_own_file(&file, u64::MAX, write)?
            }
            result => result,
        };
        crash::point("write.after");
        let written = written.map_err(ViewError::host("write"))?;
        u32::try_from(written).map_err(|_| ViewError::FileTooBig)
    }

    /// Writes all of what the kernel has held back. It looks at errors only, and takes a short answer for a whole one: so
    /// a disk that takes a part is asked for the rest, until it says why not.
    pub fn write_back(&self, via: impl Into<Via>, offset: u64, data: &[u8]) -> Result<u32> {
        let (via, mut done) = (via.into(), 0);
        while done < data.len() {
            match self.write(via, offset + done as u64, &data[done..])? {
                0 => return Err(ViewError::host("write")(rustix::io::Errno::NOSPC)),
                some => done += some as usize,
            }
        }
        u32::try_from(done).map_err(|_| ViewError::FileTooBig)
    }

    /// Makes the file's bytes, attributes and name durable.
    pub fn fsync(&self, via: impl Into<Via>, data_only: bool) -> Result<()> {
        let state = self.state();
        state.latch.check()?;
        let (file, _) = state.file_of(via.into())?;
        // A file that was frozen meanwhile is made durable with its layer.
        if let Some(own) = file.content().own(&state.layers()) {
            let seen = state.volatile.look(file.ino);
            state.patched.take(file.ino);
            let synced = own.sync(data_only).map_err(ViewError::host("fsync of a working file"));
            let coverage = state.latch.guard("fsync", synced)?;
            state.volatile.synced(file.ino, seen);
            state.confirm(file.ino, coverage)?;
        }
        state.sync_log()
    }

    /// Forgets a handle; if it was the last of its file that leads past the view, what is needed to let go of it.
    pub fn release(&self, handle: Handle) -> Option<LastPassed> {
        let state = self.state();
        let removed = state.open.remove(handle)?;
        if removed.unused {
            state.let_times_be(removed.ino);
        }
        if removed.unused && state.wholes.was_used(removed.ino) {
            state.wholes.bell.ring();
        }
        if removed.unused && state.work.was_forgotten(removed.ino) {
            state.work.reap(removed.ino);
        }
        removed.last_passed
    }

    /// Sets a regular file's length.
    pub(crate) fn truncate(&self, node: &Node, size: u64) -> Result<()> {
        let state = self.state();
        let ino = node.inode.ino;
        let held = state.hold(ino)?;
        let truncate = |own: Own<'_>| {
            crash::point("truncate.before");
            own.set_len(size)
        };
        state.on_own_file(&held.file, size, truncate)?.map_err(ViewError::host("truncate"))?;
        crash::point("truncate.after");
        Ok(())
    }
}

impl Content {
    /// Reads at `offset` as pread(2) does.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Empty => Ok(0),
            Self::Blob(reader) => reader.read_at(buffer, offset),
            Self::File { file, .. } => file.read_at(buffer, offset),
            Self::Patched { file, .. } => file.read_at(buffer, offset),
        }
    }
}

/// Which working files a layer has: another value after each change of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilesAt {
    layer: LayerId,
    changes: u64,
}

impl State {
    /// The file that is used, and for what it was opened.
    pub(crate) fn file_of(&self, via: Via) -> Result<(Using<'_>, OpenFlags)> {
        match via {
            Via::Handle(handle) => {
                let (file, flags) = self.file_of_handle(handle)?;
                Ok((Using::Opened(file), flags))
            }
            Via::Node(ino) => {
                let held = self.hold_regular(&self.node(ino)?)?;
                // The kernel heeds what its descriptors are open for.
                Ok((Using::Held(held), OpenFlags { read: true, write: true, exclusive: false }))
            }
        }
    }

    /// The shared state of a node that has to be a regular file.
    pub(crate) fn hold_regular(&self, node: &Node) -> Result<Held<'_>> {
        match node.inode.kind {
            FileKind::Regular => self.hold(node.inode.ino),
            FileKind::Directory => Err(ViewError::IsDirectory),
            _ => Err(ViewError::Invalid("not a regular file")),
        }
    }

    /// The shared state of a regular file, for one operation or until a handle has it.
    pub(crate) fn hold(&self, ino: Ino) -> Result<Held<'_>> {
        self.hold_made_since(ino, None)
    }

    /// As [`hold`](Self::hold). A file that was made since the upper's working files were `before` has none, which the host
    /// need not be asked, unless these have changed by now.
    pub(crate) fn hold_made_since(&self, ino: Ino, before: Option<FilesAt>) -> Result<Held<'_>> {
        let mut seen = None;
        let held = self.open.hold(ino, || {
            let node = self.node(ino)?;
            let changes = self.working_file_changes(&node)?;
            let is_unmade = before.is_some() && changes == before;
            let content = if is_unmade { Content::Empty } else { self.content_of(&node)? };
            seen = Some((node.inode.body.clone(), changes));
            Ok(content)
        })?;
        if let Some((body, changes)) = seen {
            // Others may have opened, changed and released the file since its content was looked up. From here
            // on they share this state, so a second look is final.
            let _replacing = held.file.replacing.lock().unwrap_or_else(PoisonError::into_inner);
            let node = self.node(ino)?;
            let content = held.file.content();
            let is_empty = matches!(*content, Content::Empty);
            if !node.inode.body.is_where(&body) || (is_empty && self.working_file_changes(&node)? != changes)
            {
                held.file.replace(self.content_of(&node)?);
            } else if let Content::Patched { file, .. } = &*content {
                file.look_again()?;
            }
        }
        Ok(held)
    }

    /// The upper's working files as they are.
    pub(crate) fn upper_files(&self) -> Option<FilesAt> {
        let layers = self.gate();
        let upper = layers.upper.as_ref()?;
        Some(FilesAt { layer: upper.id, changes: upper.files.changes() })
    }

    /// What changes when a file that has none gets a working file where the node's would be.
    fn working_file_changes(&self, node: &Node) -> Result<Option<FilesAt>> {
        let files_at = |layer| Ok(FilesAt { layer, changes: self.files(layer, node.inode.ino)?.changes() });
        node.inode.body.layer().map(files_at).transpose()
    }

    /// Where the bytes of a regular file are.
    pub(crate) fn content_of(&self, node: &Node) -> Result<Content> {
        let ino = node.inode.ino;
        match &node.inode.body {
            Body::Blob { id, size, .. } => Ok(Content::Blob(self.repo.store().open_blob_later(id, *size)?)),
            Body::File { layer } => {
                let write = self.gate().is_upper(*layer) && !self.read_only;
                let file = self.files(*layer, ino)?.open_file(ino, write)?;
                Ok(file.map_or(Content::Empty, |file| Content::File { layer: *layer, file }))
            }
            Body::Patched(patch) => {
                let write = self.gate().is_upper(patch.layer) && !self.read_only;
                let file = self.files(patch.layer, ino)?.open_patched(ino, write)?;
                let under = self.repo.store().open_blob(&patch.blob, patch.size)?;
                let file = Patched::open(ino, file, under, write)?;
                Ok(Content::Patched { layer: patch.layer, file })
            }
            Body::None | Body::Tree { .. } | Body::Target(_) => {
                Err(ViewError::Damaged { ino, why: "a regular file without bytes".to_owned() })
            }
        }
    }

    /// Lets `change` change the upper's working file of `file`, which is made at its first change; of earlier bytes,
    /// `keep` are kept. The layer is not frozen meanwhile, so the change is in it, whole, or in the next one.
    pub(crate) fn on_own_file<T>(
        &self,
        file: &OpenFile,
        keep: u64,
        change: impl FnOnce(Own<'_>) -> T,
    ) -> Result<T> {
        loop {
            self.own_content(file, keep)?;
            let layers = self.gate();
            // Looked up with the gate held: who exchanges the upper's file for another one has it shut.
            let content = file.content();
            if let Some(own) = content.own(&layers) {
                let changed = change(own);
                self.volatile.mark(file.ino, false);
                self.told.overtake(file.ino);
                if let Own::Patched(_) = own {
                    self.patched.changed(file.ino);
                    self.wholes.used(file.ino);
                }
                return Ok(changed);
            }
            // Frozen just now.
        }
    }

    /// A working file of `file` that is the upper's, or was a moment ago.
    pub(crate) fn own_content(&self, file: &OpenFile, keep: u64) -> Result<Arc<Content>> {
        let content = file.content();
        if content.own(&self.gate()).is_some() {
            return Ok(content);
        }
        let _replacing = file.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let content = file.content();
            if content.own(&self.gate()).is_some() {
                return Ok(content);
            }
            let upper = self.upper()?;
            let node = self.node(file.ino)?;
            let own = match &node.inode.body {
                Body::File { layer } if *layer == upper.id => self.make_file(&upper, file.ino)?,
                Body::Patched(patch) if patch.layer == upper.id => Some(self.content_of(&node)?),
                _ => self.copy_up(&upper, &node, &content, keep)?,
            };
            if let Some(own) = own {
                return Ok(file.replace(own));
            }
            // Frozen just now.
        }
    }

    /// Makes the working file of a node that has been empty so far; `None` when `upper` is not the upper any more.
    fn make_file(&self, upper: &Upper, ino: Ino) -> Result<Option<Content>> {
        let layers = self.gate();
        if !layers.is_upper(upper.id) {
            return Ok(None);
        }
        let file = upper.files.make_file(ino)?;
        self.volatile.mark(ino, true);
        Ok(Some(Content::File { layer: upper.id, file }))
    }

    /// Gives a node whose bytes lie below a working file of its own, with all its bytes or, if it is large, with those
    /// that are going to change. The file is whole before it has the node's number, and counts from the commit on; until
    /// it is durable the row keeps what it replaces. `None` when `upper` is not the upper any more.
    fn copy_up(&self, upper: &Upper, node: &Node, content: &Content, keep: u64) -> Result<Option<Content>> {
        let ino = node.inode.ino;
        let temp = upper.files.temp_file()?;
        let patch = self.begin_patch(upper, node, content, temp.file()?, keep)?;
        let body = if let Some(patch) = patch {
            Body::Patched(Box::new(patch))
        } else {
            self.copy_bytes(node, content, temp.file()?, keep)?;
            Body::File { layer: upper.id }
        };
        let own = self.change(|change| {
            if change.upper != upper.id {
                return Ok(None);
            }
            let node = change.node(ino)?;
            let mut row = change.row_of(&node)?;
            crash::point("copy-up.before-rename");
            let own = temp.adopt(ino, row.mtime)?;
            crash::point("copy-up.before-commit");
            row.fallback = Some(std::mem::replace(&mut row.body, body.clone()));
            row.host_ctime = Some(stat_open(&own)?.ctime);
            change.commit.put(row);
            Ok(Some(own))
        })?;
        let Some(file) = own else { return Ok(None) };
        crash::point("copy-up.after-commit");
        self.work.wake_soon();
        Ok(Some(match body {
            Body::Patched(patch) => {
                let under = self.repo.store().open_blob(&patch.blob, patch.size)?;
                Content::Patched { layer: upper.id, file: Patched::open(ino, file, under, true)? }
            }
            _ => Content::File { layer: upper.id, file },
        }))
    }

    /// Makes an empty file one that has none of the node's bytes, or as few as what it is copied from, if the node is
    /// large and the base has what it lacks: that stays in the store for as long as the thread has a history.
    fn begin_patch(
        &self,
        upper: &Upper,
        node: &Node,
        content: &Content,
        to: &File,
        keep: u64,
    ) -> Result<Option<Patch>> {
        let size = self.attr(node)?.size;
        if size.min(keep) < self.patching.from {
            return Ok(None);
        }
        match (content, &node.inode.body) {
            // What was read from a layer is in the store meanwhile, if the node says so.
            (_, body @ Body::Blob { id, size, holes }) => {
                let durable = Coverage::none(*size, self.patching.block);
                let in_base = self.base().inode(node.inode.ino)?.is_some_and(|inode| inode.body == *body);
                let begun = in_base && Patched::begin(to, &durable, *size)?;
                let (blob, size, holes) = (*id, *size, *holes);
                Ok(begun.then_some(Patch { layer: upper.id, blob, size, holes, durable }))
            }
            (Content::Patched { file, .. }, Body::Patched(patch)) => {
                if !Patched::begin(to, &file.coverage(), size)? {
                    return Ok(None);
                }
                let durable = file.copy_own(to, size)?;
                Ok(Some(Patch { layer: upper.id, durable, ..(**patch).clone() }))
            }
            _ => Ok(None),
        }
    }

    fn copy_bytes(&self, node: &Node, from: &Content, to: &File, keep: u64) -> Result<()> {
        let size = self.attr(node)?.size;
        let end = size.min(keep);
        let data = self.data_of(node, from, size)?;
        if let (Content::Blob(blob), Body::Blob { id, .. }) = (from, &node.inode.body)
            && end == size
        {
            // Bytes that are no longer what they were must not become the thread's own, which nobody can tell from a change.
            blob.verify(*id, size, &data)?;
        }
        for extent in data {
            let stop = extent.end().min(end);
            if copy_range(from, to, extent.offset, stop)? < stop {
                let why = "its bytes end before the length it has".to_owned();
                return Err(ViewError::Damaged { ino: node.inode.ino, why });
            }
        }
        to.set_len(end).map_err(ViewError::host("extend a working file"))
    }

    /// Where a file has data; the rest are holes, and stay so in copies.
    pub(crate) fn data_of(&self, node: &Node, content: &Content, size: u64) -> Result<Vec<Extent>> {
        let whole = vec![Extent { offset: 0, len: size }];
        match (content, &node.inode.body) {
            (Content::Empty, _) => Ok(Vec::new()),
            (Content::Blob(_), Body::Blob { holes, .. }) => self.data_of_blob(holes.as_ref(), size),
            (Content::Patched { file, .. }, Body::Patched(patch)) => {
                let under = self.data_of_blob(patch.holes.as_ref(), patch.size)?;
                file.data(size, &under).map_err(ViewError::host("find a working file's data"))
            }
            (Content::Blob(_) | Content::Patched { .. }, _) => Ok(whole),
            (Content::File { file, .. }, _) => {
                data_extents(file, size).map_err(ViewError::host("find a working file's data"))
            }
        }
    }

    /// Where a blob of `size` bytes with this list of holes, if it has any, has data.
    pub(crate) fn data_of_blob(&self, holes: Option<&ObjectId>, size: u64) -> Result<Vec<Extent>> {
        match holes {
            Some(holes) => Ok(between_holes(&self.repo.store().holes(holes)?, size)),
            None => Ok(vec![Extent { offset: 0, len: size }]),
        }
    }

    /// Takes note that the node's working file is durable, as far as `coverage` says: nothing falls back to what it
    /// replaced.
    pub(crate) fn confirm(&self, ino: Ino, coverage: Option<Coverage>) -> Result<()> {
        let pending = coverage.is_some() || {
            let tables = self.tables();
            tables.fallbacks().contains(&ino)
                || tables.unsettled().values().any(|replaced| replaced.source == ino)
        };
        if !pending {
            return Ok(());
        }
        let is_patched = coverage.is_some();
        let recorded = self.record_durable(ino, coverage);
        if is_patched && recorded.is_err() {
            self.patched.changed(ino);
        }
        recorded
    }

    fn record_durable(&self, ino: Ino, coverage: Option<Coverage>) -> Result<()> {
        // The file's name must be durable before a row says that its bytes are.
        let upper = self.upper()?;
        self.latch.guard("fsync", upper.files.sync_names())?;
        self.change(|change| {
            if change.upper != upper.id {
                // Frozen just now, and made durable with its layer.
                return Ok(());
            }
            if change.note_durable(ino, coverage)? {
                change.settle_sources(&HashSet::from_iter([ino]));
            }
            Ok(())
        })?;
        self.work.wake_soon();
        Ok(())
    }

    /// Says in the catalog that these working files of the upper are durable, except for those that are patched.
    pub(crate) fn confirm_synced(&self, upper: &Upper, synced: &[Ino]) -> Result<()> {
        if synced.is_empty() {
            return Ok(());
        }
        self.latch.guard("fsync", upper.files.sync_names())?;
        for batch in synced.chunks(CONFIRMED_AT_ONCE) {
            self.change(|change| {
                if change.upper != upper.id {
                    // Frozen just now, and made durable with its layer.
                    return Ok(());
                }
                let mut durable = HashSet::default();
                for ino in batch {
                    if change.note_durable(*ino, None)? {
                        durable.insert(*ino);
                    }
                }
                change.settle_sources(&durable);
                Ok(())
            })?;
        }
        self.work.wake_soon();
        Ok(())
    }

    /// Makes every commit so far durable, and before it the names of working files and the layers beneath.
    pub(crate) fn sync_log(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.latch.check()?;
        self.seal()?;
        let Some(upper) = self.layers().upper.clone() else { return Ok(()) };
        self.latch.guard("fsync", upper.files.sync_names())?;
        self.latch.guard("fsync", upper.log.sync())
    }
}

impl Change<'_> {
    /// Has a file's row say that its bytes are durable; of a patched file those that `coverage` tells of. Tells whether
    /// that is so.
    fn note_durable(&mut self, ino: Ino, coverage: Option<Coverage>) -> Result<bool> {
        let node = match self.node(ino) {
            // Removed while it was synced, and with it whatever could have fallen back.
            Err(ViewError::NotFound) => return Ok(false),
            node => node?,
        };
        if node.origin != Origin::Layer(self.upper) {
            return Ok(true);
        }
        if coverage.is_none() && matches!(node.inode.body, Body::Patched(_)) {
            return Ok(false);
        }
        let body = node.inode.body.durable_as(coverage);
        if node.inode.fallback.is_some() || body != node.inode.body {
            self.commit.put(Inode { fallback: None, body, ..(*node.inode).clone() });
        }
        Ok(true)
    }
}

/// Makes a working file durable; tells which parts of it are, unless it is whole.
pub(crate) fn sync_file(file: &File, data_only: bool) -> io::Result<Option<Coverage>> {
    let coverage = Coverage::read(file)?;
    // The coverage is no part of a file's data.
    if data_only && coverage.is_none() {
        file.sync_data()?;
    } else {
        file.sync_all()?;
    }
    Ok(coverage)
}

/// Copies bytes from `offset` to `end`, in the kernel where it can be done there; tells where the bytes ended.
pub(crate) fn copy_range(from: &Content, to: &File, offset: u64, end: u64) -> Result<u64> {
    let mut at = offset;
    let plain = match from {
        Content::Blob(BlobReader::File(file)) => Some(&**file),
        Content::File { file, .. } => Some(file),
        Content::Blob(_) | Content::Patched { .. } | Content::Empty => None,
    };
    while let Some(plain) = plain
        && at < end
    {
        let (mut read_at, mut write_at) = (at, at);
        let want = usize::try_from(end - at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(plain, Some(&mut read_at), to, Some(&mut write_at), want) {
            Ok(0) => return Ok(at),
            Ok(copied) => at += copied as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(ViewError::host("copy-up")(error)),
        }
    }
    let mut block = vec![0; COPY_BLOCK.min(usize::try_from(end.saturating_sub(at)).unwrap_or(COPY_BLOCK))];
    while at < end {
        let want = block.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        match from.read_at(&mut block[..want], at) {
            Ok(0) => break,
            Ok(read) => {
                to.write_all_at(&block[..read], at).map_err(ViewError::host("copy-up"))?;
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ViewError::Host { what: "copy-up", source }),
        }
    }
    Ok(at)
}
