//! Opening and closing a thread's view.

use crate::background::Background;
use crate::base::Base;
use crate::bring_in;
use crate::catalog::Catalog;
use crate::error::{Result, ViewError};
use crate::layers::{Frozen, Layers, Upper, open_directory};
use crate::patched::Patching;
use crate::state::{Parts, State};
use crate::tables::Tables;
use crate::upkeep::Upkeep;
use crate::whole;
use selvedge_store::{Ino, LayerId, NewState, ObjectId, Repository, ThreadLock, ThreadName, ThreadRef};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How a view is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// The epoch of the kernel connection that is served: random, the same for every worker that serves it.
    pub epoch: u64,
    /// An earlier worker has served this connection, and what it had open is open still.
    pub resumed: bool,
    /// The kernel holds back what programs write, and keeps the times of files itself.
    pub kernel_times: bool,
    /// Stands for the running kernel's boot id, which tells a crash of processes from a loss of power. Only
    /// tests set it.
    pub boot_id: Option<String>,
    /// Stands for the time after which every request that was carried out has been answered. Only tests set it.
    pub answered_after: Option<Duration>,
    /// Stands for which files are patched. Only tests set it.
    pub patching: Option<Patching>,
    /// Stands for the number of frozen layers beyond which they are made one. Only tests set it.
    pub deepest: Option<usize>,
}

/// More frozen layers than this are made one: each costs a lookup that misses some two microseconds.
const DEEPEST: usize = 4;

/// No request is between being carried out and being answered for so long.
const ANSWERED_AFTER: Duration = Duration::from_secs(10);

/// One thread's working tree: base snapshot, frozen layers and upper, as nodes and operations on them.
///
/// Methods may be called from any number of threads. A mutation is in the kernel's page cache when its method
/// returns, so the death of the process loses nothing that was answered; `fsync` and `fsyncdir` make durable.
#[derive(Debug)]
pub struct View {
    upkeep: Option<Upkeep>,
    /// What else is done beside those who use it.
    background: Vec<Background>,
    state: Arc<State>,
}

impl View {
    /// Opens a thread's view. The lock proves that nobody else has its upper open, and is kept with the view.
    ///
    /// # Errors
    /// When the thread, its snapshot or a layer is missing or damaged, or the disk fails.
    pub fn open(
        repo: impl Into<Arc<Repository>>,
        thread: &ThreadName,
        lock: ThreadLock,
        options: ViewOptions,
    ) -> Result<Self> {
        let repo = repo.into();
        let boot_id = options.boot_id.map_or_else(boot_id, Ok)?;
        let thread = repo.refs().thread(thread)?;
        let base = Base::open(repo.store().clone(), &thread.snapshot)?;
        let Opened { thread, frozen, frozen_catalogs, upper, clean } =
            Opened::open(&repo, thread, &boot_id, options.read_only)?;
        let (upper, catalog) = upper.map(|(upper, catalog)| (Arc::new(upper), catalog)).unzip();
        let catalog = upper.as_ref().map(|upper: &Arc<Upper>| upper.id).zip(catalog);
        let state = Arc::new(State::new(Parts {
            repo,
            lock: lock.into(),
            thread: Some(thread),
            read_only: options.read_only,
            layers: Layers { base: Arc::new(base), frozen, retired: Vec::new(), upper },
            tables: Tables::new(catalog, frozen_catalogs)?,
            boot_id,
            answered_after: options.answered_after.unwrap_or(ANSWERED_AFTER),
            deepest: options.deepest.unwrap_or(DEEPEST),
            patching: options.patching.unwrap_or_default(),
            all_dirty: !clean,
            kernel_times: options.kernel_times,
        }));
        if !clean {
            state.suspect_patched()?;
        }
        // A connection that is new has nothing open: what has no name goes. One that goes on may know any of it, by
        // an open file or by its number alone.
        if !options.resumed {
            state.reap_orphans();
        }
        let upkeep = Upkeep::start(&state)?;
        state.work.wake_soon();
        let mut background = Vec::new();
        if !state.read_only {
            background.push(bring_in::start(&state)?);
            background.push(whole::start(&state)?);
        }
        Ok(Self { upkeep: Some(upkeep), background, state })
    }

    /// Opens what `layers` (bottom first) make of a snapshot, to be read only: a thread as it was when its upper was
    /// frozen. Needs no thread's lock, since nobody changes any of it.
    ///
    /// # Errors
    /// When the snapshot or a layer is missing or damaged, or the disk fails.
    pub fn open_frozen(
        repo: impl Into<Arc<Repository>>,
        snapshot: &ObjectId,
        layers: &[LayerId],
        options: ViewOptions,
    ) -> Result<Self> {
        let repo = repo.into();
        let boot_id = options.boot_id.map_or_else(boot_id, Ok)?;
        let base = Arc::new(Base::open(repo.store().clone(), snapshot)?);
        let (mut frozen, mut catalogs) = (Vec::new(), Vec::new());
        for &id in layers {
            let Some((layer, catalog)) = Frozen::open(&repo, id, &boot_id)? else {
                return Err(ViewError::LayerLost { layer: id });
            };
            frozen.push(Arc::new(layer));
            catalogs.insert(0, (id, catalog));
        }
        let state = Arc::new(State::new(Parts {
            lock: open_directory(&repo.layers_dir())?,
            repo,
            thread: None,
            read_only: true,
            layers: Layers { base, frozen, retired: Vec::new(), upper: None },
            tables: Tables::new(None, catalogs)?,
            boot_id,
            answered_after: ANSWERED_AFTER,
            deepest: DEEPEST,
            patching: options.patching.unwrap_or_default(),
            all_dirty: false,
            kernel_times: false,
        }));
        Ok(Self { upkeep: None, background: Vec::new(), state })
    }

    /// The thread's lock, which keeps others out for as long as any duplicate of it is open. A view of frozen layers
    /// alone keeps nobody out.
    pub fn lock_fd(&self) -> BorrowedFd<'_> {
        self.state.lock.as_fd()
    }

    /// The root directory's number.
    pub fn root(&self) -> Ino {
        self.state.root
    }

    /// Makes everything durable.
    pub fn sync(&self) -> Result<()> {
        let state = &self.state;
        if state.read_only {
            return Ok(());
        }
        state.latch.check()?;
        if state.layers().upper.is_none() {
            return state.seal();
        }
        let written = state.volatile.any() || !state.open.passed().is_empty();
        if written || state.is_waiting() || state.all_dirty.load(Ordering::Acquire) {
            state.sync_disk()?;
        }
        state.confirm_copies()?;
        state.sync_log()
    }

    /// Does now what the view otherwise does by itself from time to time: makes durable what nobody waits for, does
    /// without layers, frees room, has large files all of their bytes that are used much.
    pub fn tidy(&self) -> Result<()> {
        self.state.upkeep()?;
        self.state.make_whole_what_pays()
    }

    /// Files are opened past the view from now on, where they can be: large ones that are used much are made such that
    /// they can.
    pub fn begin_passing(&self) {
        self.state.wholes.begin();
    }

    /// The orderly end: nothing is open any more, so what has no name goes; everything is durable; the catalog is
    /// one file.
    ///
    /// # Errors
    /// When something could not be made durable, at this moment or earlier.
    pub fn close(mut self) -> Result<()> {
        self.upkeep = None;
        self.background.clear();
        let state = &self.state;
        if state.read_only {
            return Ok(());
        }
        self.sync()?;
        state.reap_orphans();
        state.reap_queued()?;
        state.collapse_now()?;
        let catalog = state.tables().take_upper();
        if let Some(mut catalog) = catalog {
            match &state.gate().upper {
                Some(upper) => upper.reserve.spend_on(|| catalog.end_use())?,
                None => catalog.end_use()?,
            }
            let needed = catalog.says_anything()?;
            catalog.close()?;
            if !needed {
                state.drop_upper()?;
            }
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

/// The running kernel's boot, which tells a crash of processes from a loss of power.
pub(crate) fn boot_id() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(ViewError::host("read the boot id"))
}

/// A thread's layers, opened.
struct Opened {
    thread: ThreadRef,
    /// Bottom first.
    frozen: Vec<Arc<Frozen>>,
    /// Top first.
    frozen_catalogs: Vec<(LayerId, Catalog)>,
    upper: Option<(Upper, Catalog)>,
    /// Whether the upper's working files are known to be durable.
    clean: bool,
}

impl Opened {
    /// Opens all layers of `thread`, and takes those away that a loss of power took the ground from.
    fn open(repo: &Repository, thread: ThreadRef, boot_id: &str, read_only: bool) -> Result<Self> {
        let mut opened =
            Self { thread, frozen: Vec::new(), frozen_catalogs: Vec::new(), upper: None, clean: true };
        for (at, id) in opened.thread.layers.clone().into_iter().enumerate() {
            let layer = Frozen::open(repo, id, boot_id).map_err(ViewError::in_layer(id))?;
            let Some((frozen, catalog)) = layer else {
                opened.cut(repo, at)?;
                return Ok(opened);
            };
            opened.frozen.push(Arc::new(frozen));
            opened.frozen_catalogs.insert(0, (id, catalog));
        }
        if let Some(id) = opened.thread.upper {
            match Upper::open(repo, id, boot_id, read_only).map_err(ViewError::in_layer(id))? {
                Some((upper, catalog, clean)) => {
                    opened.upper = Some((upper, catalog));
                    opened.clean = clean;
                }
                None => opened.cut(repo, opened.thread.layers.len())?,
            }
        }
        Ok(opened)
    }

    /// Leaves the thread the layers below `at`: nothing above them was durable for anybody when the power was lost.
    fn cut(&mut self, repo: &Repository, at: usize) -> Result<()> {
        let layers = self.thread.layers.get(..at).unwrap_or_default().to_vec();
        tracing::info!(kept = layers.len(), "a loss of power took layers that were not durable");
        let new = NewState { snapshot: self.thread.snapshot, layers, upper: None };
        self.thread = repo.refs().update_thread(&self.thread, &new)?;
        Ok(())
    }
}
