//! Opening and closing a thread's view.

use crate::base::Base;
use crate::catalog::Catalog;
use crate::error::{Result, ViewError};
use crate::log_sync::LogSync;
use crate::recovery;
use crate::reserve::Reserve;
use crate::state::{Parts, State, Upper, open_directory, open_log};
use crate::tables::Tables;
use crate::upkeep::Upkeep;
use crate::working_files::WorkingFiles;
use selvedge_store::{Ino, Repository, ThreadLock, ThreadName};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How a view is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// The epoch of the kernel connection that is served: random, the same for every worker that serves it.
    pub epoch: u64,
    /// Stands for the running kernel's boot id, which tells a crash of processes from a loss of power. Only
    /// tests set it.
    pub boot_id: Option<String>,
}

/// One thread's working tree: base snapshot, frozen layers and upper, as nodes and operations on them.
///
/// Methods may be called from any number of threads. A mutation is in the kernel's page cache when its method
/// returns, so the death of the process loses nothing that was answered; `fsync` and `fsyncdir` make durable.
#[derive(Debug)]
pub struct View {
    upkeep: Option<Upkeep>,
    state: Arc<State>,
}

impl View {
    /// Opens a thread's view. The lock proves that nobody else has its upper open, and is kept with the view.
    ///
    /// # Errors
    /// When the thread, its snapshot or a layer is missing or damaged, or the disk fails.
    pub fn open(
        repo: Repository,
        thread: &ThreadName,
        lock: ThreadLock,
        options: ViewOptions,
    ) -> Result<Self> {
        let boot_id = match options.boot_id {
            Some(id) => id,
            None => std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .map_err(ViewError::host("read the boot id"))?,
        };
        let thread = repo.refs().thread(thread)?;
        let base = Base::open(repo.store().clone(), &thread.snapshot)?;
        let (mut frozen_files, mut frozen_catalogs) = (HashMap::new(), Vec::new());
        for id in thread.layers.iter().rev() {
            let directory = repo.layer_dir(id);
            frozen_files.insert(*id, WorkingFiles::open(&directory)?);
            frozen_catalogs.push((*id, Catalog::open_frozen(&directory.join("catalog.db"))?));
        }
        let (mut upper, mut catalog, mut clean) = (None, None, true);
        if let Some(id) = thread.upper {
            let directory = repo.layer_dir(&id);
            let files = WorkingFiles::open(&directory)?;
            let mut opened = Catalog::open_upper(&directory.join("catalog.db"))?;
            clean = recovery::recover(&mut opened, &files, &boot_id)?;
            // What is only read stays marked as its last writer left it.
            let in_use = !options.read_only || !clean;
            if in_use {
                opened.begin_use(&boot_id)?;
            }
            let log = LogSync::new(if in_use { open_log(&directory)? } else { open_directory(&directory)? });
            upper = Some(Upper { id, files, log, reserve: Reserve::open(&directory)? });
            catalog = Some((id, opened));
        }
        let state = Arc::new(State::new(Parts {
            repo,
            lock,
            thread,
            read_only: options.read_only,
            base,
            frozen: frozen_files,
            upper,
            tables: Tables::new(catalog, frozen_catalogs)?,
            boot_id,
            all_dirty: !clean,
        }));
        // A connection that is new has nothing open: what has no name goes.
        state.reap_orphans();
        let upkeep = Upkeep::start(&state)?;
        state.work.wake_soon();
        Ok(Self { upkeep: Some(upkeep), state })
    }

    /// The thread's lock, which keeps others out for as long as any duplicate of it is open.
    pub fn lock_fd(&self) -> BorrowedFd<'_> {
        self.state.lock.as_fd()
    }

    /// The root directory's number.
    pub fn root(&self) -> Ino {
        self.state.base.root()
    }

    /// Makes everything durable.
    pub fn sync(&self) -> Result<()> {
        let state = &self.state;
        if state.read_only {
            return Ok(());
        }
        let Some(upper) = state.upper.get() else { return Ok(()) };
        state.latch.check()?;
        let seen = state.volatile.look_at_all();
        if !seen.is_empty() || state.all_dirty.load(Ordering::Acquire) {
            state.latch.guard("syncfs", upper.files.sync_disk())?;
            for (ino, mark) in seen {
                state.volatile.synced(ino, Some(mark));
            }
        }
        state.confirm_copies()?;
        state.sync_log()
    }

    /// The orderly end: nothing is open any more, so what has no name goes; everything is durable; the catalog is
    /// one file.
    ///
    /// # Errors
    /// When something could not be made durable, at this moment or earlier.
    pub fn close(mut self) -> Result<()> {
        self.upkeep = None;
        let state = &self.state;
        if state.read_only {
            return Ok(());
        }
        self.sync()?;
        state.reap_orphans();
        state.reap_queued()?;
        let catalog = state.tables().take_upper();
        if let Some(catalog) = catalog {
            catalog.end_use()?;
            catalog.close()?;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn reap_now(&self) -> bool {
        self.state.reap_now()
    }
}
