//! Operations on directory streams: opendir, readdir, fsyncdir, releasedir.

use crate::attr::{Attr, DirEntry};
use crate::catalog::NameRow;
use crate::dir_stream::Listing;
use crate::error::{Result, ViewError};
use crate::request::{Handle, Request};
use crate::state::State;
use crate::view::View;
use selvedge_store::{FileKind, Ino};
use std::sync::{Arc, PoisonError};

impl View {
    /// Opens a directory stream.
    pub fn opendir(&self, request: &Request, ino: Ino) -> Result<Handle> {
        let state = self.state();
        if !state.node(ino)?.inode.is_dir() {
            return Err(ViewError::NotDirectory);
        }
        let handle = Handle(request.key.unique);
        state.open.add_dir(handle, ino);
        Ok(handle)
    }

    /// Passes on the entries after `cookie` (0: from the start, with `.` and `..`) until `emit` answers that one
    /// did not fit. A stream shows the names there were when it was opened or last rewound; its positions mean
    /// the same in any stream of the directory.
    pub fn readdir(
        &self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let state = self.state();
        let directory = state.open.dir(handle)?;
        let mut kept = directory.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = match &*kept {
            Some(listing) if cookie != 0 => Arc::clone(listing),
            _ => Arc::clone(kept.insert(Arc::new(state.list(directory.ino)?))),
        };
        drop(kept);
        listing.emit_after(cookie, emit);
        Ok(())
    }

    /// As [`readdir`](Self::readdir), with what stat(2) shows of each entry: of the names that the stream shows, those
    /// that are there at this moment, with the nodes they have at this moment.
    pub fn readdir_plus(
        &self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry, &Attr) -> bool,
    ) -> Result<()> {
        let directory = self.state().open.dir(handle)?.ino;
        let mut outcome = Ok(());
        self.readdir(handle, cookie, &mut |entry| {
            let attr = match &*entry.name {
                b"." | b".." => self.getattr(entry.ino),
                name => self.lookup(directory, name),
            };
            match attr {
                Ok(attr) => emit(entry, &attr),
                Err(ViewError::NotFound) => true,
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        })?;
        outcome
    }

    /// Makes the directory's names durable.
    pub fn fsyncdir(&self, handle: Handle) -> Result<()> {
        let state = self.state();
        let directory = state.open.dir(handle)?;
        state.settle_directory(directory.ino)?;
        state.sync_log()
    }

    /// Forgets a directory handle.
    pub fn releasedir(&self, handle: Handle) {
        self.release(handle);
    }
}

impl State {
    /// The names of a directory at this moment.
    pub(crate) fn list(&self, ino: Ino) -> Result<Listing> {
        self.warm(ino)?;
        let (inode, names) = {
            let mut tables = self.tables();
            (self.node_in(&mut tables, ino)?.inode, tables.names(ino)?)
        };
        let base = inode.tree().map(|tree| self.base().tree(tree)).transpose()?;
        let unchanged: Vec<(Vec<u8>, Ino, FileKind)> = base
            .iter()
            .flat_map(|tree| tree.iter_names())
            .filter(|(name, _, _)| !names.contains_key(*name))
            .map(|(name, ino, kind)| (name.to_vec(), ino, kind))
            .collect();
        let changed = names.into_iter().filter_map(|(name, row)| match row {
            NameRow::Node { ino, kind } => Some((name, ino, kind)),
            NameRow::Whiteout => None,
        });
        Ok(Listing::new(ino, inode.parent.unwrap_or(ino), unchanged.into_iter().chain(changed)))
    }
}
