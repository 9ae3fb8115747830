//! Operations on directory streams: opendir, readdir, fsyncdir, releasedir.

use crate::attr::{Attr, DirEntry};
use crate::dir_stream::{Listing, Names};
use crate::error::{Result, ViewError};
use crate::request::{Handle, Request, Via};
use crate::state::State;
use crate::tables::Node;
use crate::view::View;
use foldhash::HashSet;
use selvedge_store::Ino;
use std::sync::Arc;

/// How many entries are looked up while the tables are held, which everybody else waits for: some tens of microseconds.
const AT_ONCE: usize = 32;

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
    /// did not fit. Positions mean the same in any stream of the directory; a name that is there all the time comes
    /// once in each, whatever comes and goes meanwhile.
    pub fn readdir(
        &self,
        via: impl Into<Via>,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let directory = self.directory_of(via.into())?;
        let listing = self.state().listing(directory, cookie)?;
        let _ = listing.after(cookie).all(|entry| emit(&entry));
        Ok(())
    }

    /// As [`readdir`](Self::readdir), with what stat(2) shows of each entry: of the names that the stream shows, those
    /// that are there at this moment, with the nodes they have at this moment.
    pub fn readdir_plus(
        &self,
        via: impl Into<Via>,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>, &Attr) -> bool,
    ) -> Result<()> {
        let directory = self.directory_of(via.into())?;
        let state = self.state();
        let listing = state.listing(directory, cookie)?;
        let mut after = listing.after(cookie);
        loop {
            let entries: Vec<_> = after.by_ref().take(AT_ONCE).collect();
            if entries.is_empty() {
                return Ok(());
            }
            for (entry, node) in entries.iter().zip(state.entries(directory, &entries)?) {
                let attr = match node {
                    Some(node) => state.attr(&node),
                    None if entry.is_dots() => self.getattr(entry.ino),
                    None => continue,
                };
                match attr {
                    Ok(attr) if !emit(entry, &attr) => return Ok(()),
                    Ok(_) | Err(ViewError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn directory_of(&self, via: Via) -> Result<Ino> {
        match via {
            Via::Node(ino) => Ok(ino),
            Via::Handle(handle) => Ok(self.state().open.dir(handle)?.ino),
        }
    }

    /// Makes the directory's names durable.
    pub fn fsyncdir(&self, via: impl Into<Via>) -> Result<()> {
        let state = self.state();
        state.settle_directory(self.directory_of(via.into())?)?;
        state.sync_log()
    }

    /// Forgets a directory handle.
    pub fn releasedir(&self, handle: Handle) {
        let _ = self.release(handle);
    }
}

impl State {
    /// The listing of a directory for whoever is at `cookie` in it.
    fn listing(&self, directory: Ino, cookie: u64) -> Result<Arc<Listing>> {
        let listing = match self.listings.get(directory) {
            Some(listing) if cookie != 0 => listing,
            _ => {
                let listing = Arc::new(self.list(directory)?);
                self.listings.keep(directory, &listing);
                listing
            }
        };
        if listing.ends_at(cookie) {
            self.listings.end(directory);
        }
        Ok(listing)
    }

    /// The nodes that these entries of a directory have at this moment; nothing for one that is gone, and for `.` and
    /// `..`.
    fn entries(&self, directory: Ino, entries: &[DirEntry<'_>]) -> Result<Vec<Option<Node>>> {
        let (mut tables, node) = self.tables_and_directory(directory)?;
        let node_of = |entry: &DirEntry<'_>| {
            if entry.is_dots() { Ok(None) } else { self.child_in(&mut tables, &node.inode, entry.name) }
        };
        entries.iter().map(node_of).collect()
    }

    /// The names of a directory at this moment.
    pub(crate) fn list(&self, ino: Ino) -> Result<Listing> {
        self.warm(ino)?;
        let (inode, mut names) = {
            let mut tables = self.tables();
            (self.node_in(&mut tables, ino)?.inode, tables.list_of_names(ino)?)
        };
        let parent = inode.parent.unwrap_or(ino);
        if inode.nlink == 0 {
            // It was removed, so it was empty, and nothing has come into it since.
            return Ok(Names::default().listing(ino, parent));
        }
        if let Some(tree) = inode.tree() {
            let spoken_of: HashSet<&[u8]> = names.iter().collect();
            let base = self.base().tree(tree)?;
            let unchanged: Vec<_> =
                base.iter_names().filter(|(name, _, _)| !spoken_of.contains(name)).collect();
            for (name, ino, kind) in unchanged {
                names.add(name, ino, kind, 0);
            }
        }
        Ok(names.listing(ino, parent))
    }
}
