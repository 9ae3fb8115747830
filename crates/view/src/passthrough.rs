//! Files that the kernel reads and writes past the view: which ones, since when, and until when.
//!
//! A file that is passed through is the host's file itself to whoever has it open. So it has to be a file that stays
//! the same as long as anybody can reach it, by a handle or by a mapping, which outlives its handle without anybody
//! hearing of it: the host is asked who else has the file open before it counts as let go of.

use crate::attr::Attr;
use crate::error::{Result, ViewError};
use crate::inode::Body;
use crate::open_flags::OpenFlags;
use crate::open_table::{Content, Held};
use crate::request::{Handle, Request};
use crate::state::State;
use crate::sys;
use crate::view::View;
use rustix::fs::{Mode, OFlags};
use selvedge_store::{BlobReader, Ino};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// How the bytes of an open file are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By requests to the view, from the kernel's page cache where it can.
    Served,
    /// By the kernel, on the host's file.
    Passed,
    /// By the kernel, once the file has a host's file of its own.
    Make,
}

/// Where a file's bytes are when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// In the upper's working file, which is what it was made from whatever happens.
    Own,
    /// In the upper's working file, which after a loss of power may not count: then what it was copied from does.
    Unproved,
    /// Nowhere: the upper has the file, and it is empty.
    None,
    /// In a host's file that is never changed; the first change makes another one.
    Below,
    /// In no host's file that has them all and nothing else.
    Packed,
}

/// Who has a file open already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opens {
    /// Somebody has it open, and is served.
    pub(crate) served: bool,
    /// Somebody reads or writes it past the view, by a handle or a mapping.
    pub(crate) passed: bool,
}

/// The rule: how a file is to be opened.
///
/// The kernel refuses (EIO) to mix the two ways among the handles of one file, so the first one decides for as long as
/// any is open. A file that may get another host's file by a change is not passed through unless nothing can change it.
/// Nor is a copy that is not known to be durable, because msync(2) on what is passed through does not come to us.
pub(crate) const fn way(opens: Opens, bytes: Bytes, write: bool, read_only: bool) -> Way {
    match (opens, bytes) {
        (Opens { passed: true, .. }, _) => Way::Passed,
        (Opens { served: true, .. }, _) => Way::Served,
        (_, Bytes::Below | Bytes::Own | Bytes::Unproved) if read_only => Way::Passed,
        (_, Bytes::Own) => Way::Passed,
        (_, Bytes::None) if write && !read_only => Way::Make,
        (_, Bytes::None | Bytes::Below | Bytes::Packed | Bytes::Unproved) => Way::Served,
    }
}

/// The host's file behind a file that is passed through.
#[derive(Debug, Clone)]
pub struct HostFile(Arc<Content>);

impl HostFile {
    fn of(content: Arc<Content>) -> Option<Self> {
        host_file(&content).is_some().then_some(Self(content))
    }

    /// The file, if it has not gone since.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        host_file(&self.0).map(AsFd::as_fd)
    }
}

fn host_file(content: &Content) -> Option<&File> {
    match content {
        Content::File { file, .. } => Some(file),
        Content::Blob(BlobReader::File(file)) => Some(file),
        Content::Blob(BlobReader::Inline(_) | BlobReader::Later(_))
        | Content::Patched { .. }
        | Content::Empty => None,
    }
}

/// What the last handle past the view of some file led to.
#[derive(Debug)]
pub struct LastPassed(Option<HostFile>);

impl LastPassed {
    pub(crate) fn of(content: Option<Arc<Content>>) -> Self {
        Self(content.and_then(HostFile::of))
    }
}

/// A file that was opened.
#[derive(Debug)]
pub struct OpenedFile {
    /// Its handle.
    pub handle: Handle,
    /// The host's file to be passed through; `None` if reads and writes come to the view.
    pub passed: Option<HostFile>,
    /// No request before this one can have told anybody of the file.
    pub is_new: bool,
}

impl View {
    /// As [`open_file`](Self::open_file), past the view where that can be.
    ///
    /// The caller lets nobody else open or release the same file until it has kept this handle's promise, or called
    /// [`serve_after_all`](Self::serve_after_all).
    pub fn open_past(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Result<OpenedFile> {
        if flags.write {
            self.state().check_writable()?;
        }
        let node = self.state().node(ino)?;
        self.open_held_past(request, &self.state().hold_regular(&node)?, flags, false)
    }

    /// As [`create`](Self::create), past the view where that can be. `enter` is called with the file's number before it
    /// is opened, and what it returns is kept until then: see [`open_past`](Self::open_past).
    pub fn create_past<T>(
        &self,
        request: &Request,
        (parent, name): (Ino, &[u8]),
        mode: u32,
        flags: OpenFlags,
        enter: impl FnOnce(Ino) -> T,
    ) -> Result<(Attr, OpenedFile, T)> {
        let before = self.state().upper_files();
        let (node, is_new) = self.made(request, parent, name, mode, flags)?;
        let entered = enter(node.inode.ino);
        let held = if is_new {
            self.state().hold_made_since(node.inode.ino, before)?
        } else {
            self.state().hold_regular(&node)?
        };
        let opened = self.open_held_past(request, &held, flags, is_new)?;
        // The host may have made the file just now, and its times are the file's.
        Ok((self.state().attr(&self.state().node(node.inode.ino)?)?, opened, entered))
    }

    fn open_held_past(
        &self,
        request: &Request,
        held: &Held<'_>,
        flags: OpenFlags,
        is_new: bool,
    ) -> Result<OpenedFile> {
        let handle = Handle(request.key.unique);
        let passed = self.state().choose_way(handle, held, flags)?;
        Ok(OpenedFile { handle, passed, is_new })
    }

    /// Has the reads and writes of a handle that [`open_past`](Self::open_past) gave out come to the view after all.
    pub fn serve_after_all(&self, handle: Handle) {
        self.state().open.serve_after_all(handle);
    }

    /// Whether the file has a handle that leads past the view.
    pub fn has_passed_handles(&self, ino: Ino) -> bool {
        self.state().open.has_passed_handles(ino)
    }

    /// Whether the file may be read or written past the view.
    pub fn is_passed(&self, ino: Ino) -> bool {
        self.state().open.is_passed(ino)
    }

    /// Whether the repository lies on a file system that is itself stacked upon others.
    pub fn is_on_overlay(&self) -> bool {
        /// `OVERLAYFS_SUPER_MAGIC`.
        const OVERLAY: rustix::fs::FsWord = 0x794c_7630;
        rustix::fs::statfs(self.state().repo.layers_dir()).is_ok_and(|disk| disk.f_type == OVERLAY)
    }

    /// Whether the file may be written past the view, so that what is known of its size and times may be wrong soon.
    pub fn is_written_past(&self, ino: Ino) -> bool {
        self.state().open.is_written_past(ino)
    }

    /// After the last handle that leads past the view, which is `last` if that was released just now: tells whether nobody
    /// reads or writes the file past it any more. If so the next one to open it is free to choose.
    pub fn let_go(&self, ino: Ino, last: Option<LastPassed>) -> bool {
        self.state().let_go(ino, last)
    }

    /// A nameless file on the repository's disk, to try with what can be done there.
    ///
    /// # Errors
    /// When the disk has none, or cannot tell who has a file open.
    pub fn try_out(&self) -> Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.state().repo.layers_dir(), flags, Mode::from_raw_mode(0o600))
            .map_err(ViewError::host("make a file to try with"))?;
        let file = File::from(file);
        sys::is_alone(&file).map_err(ViewError::host("ask who has a file open"))?;
        Ok(file)
    }
}

impl State {
    /// Registers a handle in the way that the rule says; tells the host's file if that is past the view. No layer is
    /// frozen between the decision and the note of it.
    fn choose_way(&self, handle: Handle, held: &Held<'_>, flags: OpenFlags) -> Result<Option<HostFile>> {
        let ino = held.file.ino;
        loop {
            let node = self.node(ino)?;
            let content = held.file.content();
            let unproved = node.inode.fallback.is_some();
            let layers = self.gate();
            let bytes = match (&*content, &node.inode.body) {
                (Content::Empty, Body::File { layer }) if layers.is_upper(*layer) => Bytes::None,
                (
                    Content::Empty
                    | Content::Blob(BlobReader::Inline(_) | BlobReader::Later(_))
                    | Content::Patched { .. },
                    _,
                ) => Bytes::Packed,
                (Content::File { layer, .. }, _) if layers.is_upper(*layer) => {
                    if unproved {
                        Bytes::Unproved
                    } else {
                        Bytes::Own
                    }
                }
                (Content::File { .. } | Content::Blob(BlobReader::File(_)), _) => Bytes::Below,
            };
            let chosen = self
                .open
                .add_file_by(handle, held, flags, |opens| way(opens, bytes, flags.write, self.read_only));
            drop(layers);
            match chosen {
                Way::Served => return Ok(None),
                Way::Passed => {
                    if flags.write {
                        // Nobody hears of the writes, so they count from here on.
                        self.volatile.mark(ino, false);
                        self.work.wake_soon();
                    }
                    return Ok(HostFile::of(content));
                }
                Way::Make => drop(self.own_content(&held.file, 0)?),
            }
        }
    }

    /// Lets go of a file without handles past the view, if the host knows of nobody who has it open. One that has gone
    /// is nobody's.
    pub(crate) fn let_go(&self, ino: Ino, last: Option<LastPassed>) -> bool {
        if self.open.has_passed_handles(ino) {
            return false;
        }
        if !self.read_only && !self.is_alone(ino, last) {
            return false;
        }
        if self.open.let_go(ino) {
            // What was written past us until now is no more durable than what comes to us.
            self.volatile.mark(ino, false);
        }
        true
    }

    fn is_alone(&self, ino: Ino, last: Option<LastPassed>) -> bool {
        let Ok(node) = self.node(ino) else { return true };
        let Body::File { layer } = node.inode.body else { return true };
        // Who has just released a file need not open it again to ask, unless it went to another layer meanwhile.
        if let Some(LastPassed(Some(HostFile(content)))) = &last
            && let Content::File { layer: of, file } = &**content
            && *of == layer
        {
            return sys::is_alone(file).unwrap_or(false);
        }
        drop(last);
        let Ok(files) = self.files(layer, ino) else { return true };
        match files.open_file(ino, true) {
            Ok(Some(file)) => sys::is_alone(&file).unwrap_or(false),
            Ok(None) => true,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Opens = Opens { served: false, passed: false };
    const SERVED: Opens = Opens { served: true, passed: false };
    const PASSED: Opens = Opens { served: false, passed: true };
    const ALL: [Bytes; 5] = [Bytes::Own, Bytes::Unproved, Bytes::None, Bytes::Below, Bytes::Packed];

    #[test]
    fn the_ways_are_never_mixed() {
        for bytes in ALL {
            for write in [false, true] {
                for read_only in [false, true] {
                    assert_eq!(way(SERVED, bytes, write, read_only), Way::Served, "{bytes:?}");
                    assert_eq!(way(PASSED, bytes, write, read_only), Way::Passed, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn the_first_to_open_a_file_is_passed_through_where_its_bytes_stay_where_they_are() {
        use {Bytes as B, Way as W};
        let table = [
            // bytes, reader, writer, reader on a mount that takes no changes
            (B::Own, W::Passed, W::Passed, W::Passed),
            (B::Unproved, W::Served, W::Served, W::Passed),
            (B::None, W::Served, W::Make, W::Served),
            (B::Below, W::Served, W::Served, W::Passed),
            (B::Packed, W::Served, W::Served, W::Served),
        ];
        for (bytes, reader, writer, reader_of_read_only) in table {
            assert_eq!(way(NOBODY, bytes, false, false), reader, "{bytes:?}");
            assert_eq!(way(NOBODY, bytes, true, false), writer, "{bytes:?}");
            assert_eq!(way(NOBODY, bytes, false, true), reader_of_read_only, "{bytes:?}");
        }
    }
}
