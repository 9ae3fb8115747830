//! What was open on a connection before this worker served it.

use crate::error::Result;
use crate::open_flags::OpenFlags;
use crate::open_table::{FileHandle, OpenFile};
use crate::parents;
use crate::passthrough::Way;
use crate::request::Handle;
use crate::state::State;
use crate::view::View;
use selvedge_store::Ino;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// What a handle was opened on, and for what: all that is needed to use it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// A regular file, whose reads and writes come to the view.
    File(Ino, OpenFlags),
    /// A regular file that is read and written past the view.
    Passed(Ino, OpenFlags),
    /// A directory stream. Its positions mean the same in every listing, so nothing of the old one is needed.
    Directory(Ino),
}

impl View {
    /// Takes a handle over that an earlier worker gave out on this connection. Nothing is looked up yet, so this
    /// takes no longer for a file that is hard to open.
    ///
    /// All handles are taken over before the first request: until then a file without a name might be taken for one
    /// that nobody uses.
    pub fn inherit(&self, handle: Handle, opened: Opened) {
        let open = &self.state().open;
        match opened {
            Opened::File(ino, flags) => open.inherit_file(handle, ino, flags, Way::Served),
            Opened::Passed(ino, flags) => open.inherit_file(handle, ino, flags, Way::Passed),
            Opened::Directory(ino) => open.add_dir(handle, ino),
        }
    }

    /// A memory file for [`remember_in`](Self::remember_in).
    ///
    /// # Errors
    /// When the system gives none.
    pub fn memory_of_places() -> io::Result<File> {
        parents::memory()
    }

    /// Keeps in `memory` where unchanged nodes stand, which numbers do not tell, and knows what an earlier worker kept
    /// there: a node that the kernel knows is then found as fast as before, however large the tree is.
    ///
    /// # Errors
    /// When it is no such file, or the system gives no memory. Nodes are then searched for, as far as they are asked for.
    pub fn remember_in(&self, memory: File) -> io::Result<()> {
        self.state().base().remember_in(memory)
    }

    /// Nodes that have no name any more, and are kept as long as somebody may use them.
    pub fn nameless(&self) -> Vec<Ino> {
        self.state().tables().orphans().collect()
    }

    /// The handles of a node.
    pub fn handles_of(&self, ino: Ino) -> Vec<Handle> {
        self.state().open.handles_of(ino)
    }

    /// Takes over that a file was passed through by an earlier worker: mappings of it may be left.
    pub fn inherit_passed(&self, ino: Ino) {
        self.state().open.inherit_passed(ino);
    }
}

impl State {
    /// The file that a handle leads to, opened now if it was open before this worker.
    pub(crate) fn file_of_handle(&self, handle: Handle) -> Result<(Arc<OpenFile>, OpenFlags)> {
        loop {
            match self.open.file(handle)? {
                FileHandle::Open(file, flags) => return Ok((file, flags)),
                FileHandle::Inherited(ino) => {
                    let held = self.hold(ino)?;
                    self.open.settle_inherited(handle, &held);
                }
            }
        }
    }
}
