//! Operations on the space of regular files: fallocate, and seeking for data and holes.

use crate::attr::{Allocate, SeekTo};
use crate::crash;
use crate::error::{Result, ViewError};
use crate::open_table::{Content, Own};
use crate::request::Via;
use crate::view::View;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use selvedge_store::Ino;

impl View {
    /// Gives a range of a file room, takes its room away, or makes it zeros. Repeating it changes nothing more.
    ///
    /// # Errors
    /// What the disk under the repository says, its lack of support for a mode included.
    pub fn allocate(&self, via: impl Into<Via>, how: Allocate, offset: u64, len: u64) -> Result<()> {
        let state = self.state();
        state.check_writable()?;
        let (file, flags) = state.file_of(via.into())?;
        if !flags.write {
            return Err(ViewError::BadHandle);
        }
        state.keep_times(file.ino)?;
        let allocate = |own: Own<'_>| {
            crash::point("allocate.before");
            own.allocate(how, offset, len)
        };
        let done = match state.on_own_file(&file, u64::MAX, allocate)? {
            Err(Errno::NOSPC) if self.reap_now() => state.on_own_file(&file, u64::MAX, allocate)?,
            result => result,
        };
        crash::point("allocate.after");
        done.map_err(ViewError::host("fallocate"))
    }

    /// Whether anybody has the file open for writing, and so may hold it mapped, with stores that have not been
    /// written to us yet.
    pub fn has_writers(&self, ino: Ino) -> bool {
        self.state().open.has_writers(ino)
    }

    /// Files that somebody has open for writing, and so may hold mapped.
    pub fn writers(&self) -> Vec<Ino> {
        self.state().open.writers()
    }

    /// The next offset at or behind `offset` where data or a hole begins.
    ///
    /// # Errors
    /// [`ViewError::NoData`] if there is none.
    pub fn seek(&self, via: impl Into<Via>, offset: u64, to: SeekTo) -> Result<u64> {
        let state = self.state();
        let (file, _) = state.file_of(via.into())?;
        let content = file.content();
        match &*content {
            Content::Empty => Err(ViewError::NoData),
            Content::File { file: host, .. } => {
                let from = match to {
                    SeekTo::Data => SeekFrom::Data(offset),
                    SeekTo::Hole => SeekFrom::Hole(offset),
                };
                rustix::fs::seek(host, from).map_err(|error| match error {
                    Errno::NXIO => ViewError::NoData,
                    error => ViewError::host("lseek")(error),
                })
            }
            Content::Blob(_) | Content::Patched { .. } => {
                let node = state.node(file.ino)?;
                let size = state.attr(&node)?.size;
                if offset >= size {
                    return Err(ViewError::NoData);
                }
                // A file that is being copied up counts as data throughout, which is never wrong.
                let data = state.data_of(&node, &content, size)?;
                let here = data.iter().find(|extent| extent.end() > offset);
                match (to, here) {
                    (SeekTo::Data, None) => Err(ViewError::NoData),
                    (SeekTo::Data, Some(extent)) => Ok(offset.max(extent.offset)),
                    (SeekTo::Hole, Some(extent)) if extent.offset <= offset => Ok(extent.end()),
                    (SeekTo::Hole, _) => Ok(offset),
                }
            }
        }
    }
}
