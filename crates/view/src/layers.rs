//! What a view is made of at one instant: the base, frozen layers and an upper.

use crate::base::Base;
use crate::catalog::{self, Catalog};
use crate::claim::Claim;
use crate::error::{Result, ViewError};
use crate::held::Held;
use crate::journal;
use crate::log_sync::LogSync;
use crate::recovery;
use crate::reserve::Reserve;
use crate::working_files::WorkingFiles;
use foldhash::HashSet;
use rustix::fs::{Mode, OFlags};
use selvedge_store::gc::Removed;
use selvedge_store::{Ino, LayerId, Repository, ThreadRef, disk_use};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Younger layers that nobody refers to are let be: they may be in the making.
const LEFTOVER_AGE: Duration = Duration::from_mins(1);

/// In a frozen layer's directory: everything the layer holds is durable.
const SEALED: &str = "sealed";

/// What a view is made of. It is replaced as a whole, by whoever holds the tables and keeps writers out.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) base: Arc<Base>,
    /// Bottom first.
    pub(crate) frozen: Vec<Arc<Frozen>>,
    /// Layers whose content the base has, for those who looked a node up before it had.
    pub(crate) retired: Vec<Arc<Frozen>>,
    pub(crate) upper: Option<Arc<Upper>>,
}

/// The layer that a thread writes.
#[derive(Debug)]
pub(crate) struct Upper {
    pub(crate) id: LayerId,
    pub(crate) files: Arc<WorkingFiles>,
    pub(crate) log: LogSync,
    pub(crate) reserve: Reserve,
    /// A layer beneath may not be durable, and the catalog says so: after a power cut this one does not count.
    pub(crate) unfounded: AtomicBool,
    pub(crate) held: Held,
}

/// A layer that is never changed again.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) id: LayerId,
    pub(crate) files: Arc<WorkingFiles>,
    directory: PathBuf,
    /// Files that went on in the next upper, and have a name here still: copies stand for them.
    left_behind: Mutex<Vec<Ino>>,
    sealed: AtomicBool,
    /// Held by whoever seals it.
    sealing: Mutex<()>,
}

impl Layers {
    /// The working files of a layer, if it is one of these.
    pub(crate) fn files(&self, layer: LayerId) -> Option<&Arc<WorkingFiles>> {
        match &self.upper {
            Some(upper) if upper.id == layer => Some(&upper.files),
            _ => {
                let mut others = self.frozen.iter().chain(&self.retired);
                others.find(|other| other.id == layer).map(|other| &other.files)
            }
        }
    }

    pub(crate) fn is_upper(&self, layer: LayerId) -> bool {
        self.upper.as_ref().is_some_and(|upper| upper.id == layer)
    }
}

impl Upper {
    /// Makes the directory of a new layer, durable but for its name.
    pub(crate) fn make(repo: &Repository, boot_id: &str, unfounded: bool) -> Result<(Self, Catalog)> {
        let id = LayerId::random().map_err(ViewError::host("draw a layer's name"))?;
        let directory = repo.layer_dir(&id);
        let made = Self::make_in(id, &directory, boot_id, unfounded).and_then(|made| {
            sync_directory(&repo.layers_dir())?;
            Ok(made)
        });
        if made.is_err() {
            // Nothing refers to the half-made layer.
            let _ = std::fs::remove_dir_all(&directory);
        }
        made
    }

    fn make_in(id: LayerId, directory: &Path, boot_id: &str, unfounded: bool) -> Result<(Self, Catalog)> {
        rustix::fs::mkdir(directory, Mode::from_raw_mode(0o700)).map_err(ViewError::host("make a layer"))?;
        let claim = Claim::take(directory)?;
        let files = WorkingFiles::create(directory)?;
        let mut catalog = Catalog::create(directory)?.with_claim(claim);
        catalog.begin_use(boot_id)?;
        if unfounded {
            catalog.set_unfounded()?;
        }
        let log = LogSync::new(open_journal(directory)?, open_directory(directory)?);
        let reserve = Reserve::open(directory)?;
        catalog.sync_file()?;
        log.sync()?;
        files.sync_names()?;
        sync_directory(directory)?;
        let unfounded = AtomicBool::new(unfounded);
        let held = Held::open(directory)?;
        Ok((Self { id, files: Arc::new(files), log, reserve, unfounded, held }, catalog))
    }

    /// Opens a thread's upper; tells also whether its working files are known to be durable. `None` when a loss of
    /// power took a layer that it stands on.
    pub(crate) fn open(
        repo: &Repository,
        id: LayerId,
        boot_id: &str,
        read_only: bool,
    ) -> Result<Option<(Self, Catalog, bool)>> {
        let directory = repo.layer_dir(&id);
        let claim = Claim::take(&directory)?;
        WorkingFiles::discard_copies(&directory)?;
        let files = WorkingFiles::open(&directory)?;
        let mut catalog = Catalog::open_upper(&directory)?.with_claim(claim);
        if recovery::is_lost(&catalog, boot_id)? {
            return Ok(None);
        }
        let only_read = read_only && catalog.ended_orderly()?;
        let reserve = if only_read { Reserve::none() } else { Reserve::open(&directory)? };
        let clean = reserve.spend_on(|| recovery::recover(id, &mut catalog, &files, boot_id))?;
        // What is only read stays marked as its last writer left it.
        let in_use = !read_only || !clean;
        if in_use {
            reserve.spend_on(|| catalog.begin_use(boot_id))?;
        }
        let journal = if in_use { open_journal(&directory)? } else { open_directory(&directory)? };
        let log = LogSync::new(journal, open_directory(&directory)?);
        let unfounded = AtomicBool::new(catalog.is_unfounded()?);
        let held = Held::open(&directory)?;
        Ok(Some((Self { id, files: Arc::new(files), log, reserve, unfounded, held }, catalog, clean)))
    }
}

impl Frozen {
    /// What becomes of an upper when it is frozen, with `files`, which are its own or the copies that stand for
    /// `left_behind`.
    pub(crate) fn of(
        upper: &Upper,
        files: Arc<WorkingFiles>,
        directory: PathBuf,
        left_behind: Vec<Ino>,
    ) -> Self {
        Self { left_behind: Mutex::new(left_behind), ..Self::new(upper.id, files, directory, false) }
    }

    fn new(id: LayerId, files: Arc<WorkingFiles>, directory: PathBuf, sealed: bool) -> Self {
        Self {
            id,
            files,
            directory,
            left_behind: Mutex::default(),
            sealed: AtomicBool::new(sealed),
            sealing: Mutex::new(()),
        }
    }

    /// The files that went on in the next upper, told once.
    pub(crate) fn take_left_behind(&self) -> Vec<Ino> {
        std::mem::take(&mut self.left_behind.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a frozen layer and its catalog; first finishes what a process that died after freezing it left to do.
    /// `None` when a loss of power took a layer that it stands on: then it holds nothing that anybody was told is
    /// durable.
    pub(crate) fn open(repo: &Repository, id: LayerId, boot_id: &str) -> Result<Option<(Self, Catalog)>> {
        let directory = repo.layer_dir(&id);
        let (catalog, sealed) = match Self::open_whole(&directory, boot_id)? {
            Some(opened) => opened,
            None => match Self::finish(id, &directory, boot_id)? {
                Some(sealed) => (Self::open_catalog(&directory)?, sealed),
                None => return Ok(None),
            },
        };
        let files = WorkingFiles::open_frozen(&directory)?;
        Ok(Some((Self::new(id, Arc::new(files), directory, sealed), catalog)))
    }

    /// Opens the catalog of an upper that was closed in order, with everything durable in one file.
    pub(crate) fn open_if_closed(directory: &Path) -> Result<Option<Catalog>> {
        if is_written(directory)? {
            return Ok(None);
        }
        let catalog = Self::open_catalog(directory)?;
        Ok(catalog.ended_orderly()?.then_some(catalog))
    }

    /// Opens the catalog of a frozen layer in `directory`, and keeps others from removing it as long as it is open.
    pub(crate) fn open_catalog(directory: &Path) -> Result<Catalog> {
        let claim = Claim::share(directory)?;
        Ok(Catalog::open_frozen(directory)?.with_claim(claim))
    }

    /// The catalog, and whether everything is durable; `None` when there is something left to finish.
    fn open_whole(directory: &Path, boot_id: &str) -> Result<Option<(Catalog, bool)>> {
        let claim = Claim::share(directory)?;
        if is_written(directory)? {
            return Ok(None);
        }
        let catalog = Catalog::open_frozen(directory)?.with_claim(claim);
        if has(directory, SEALED)? || catalog.ended_orderly()? {
            return Ok(Some((catalog, true)));
        }
        let present = catalog.boot_id()?.as_deref() == Some(boot_id);
        Ok(present.then_some((catalog, false)))
    }

    /// Makes the catalog one file, after a loss of power one that says what is known to be whole; tells whether
    /// everything is durable. Another process may have done so just before, which changes nothing.
    fn finish(id: LayerId, directory: &Path, boot_id: &str) -> Result<Option<bool>> {
        let claim = Claim::take(directory)?;
        let files = WorkingFiles::open(directory)?;
        let mut catalog = Catalog::open_upper(directory)?.with_claim(claim);
        let mut sealed = has(directory, SEALED)?;
        if !sealed {
            if recovery::is_lost(&catalog, boot_id)? {
                return Ok(None);
            }
            if recovery::lost_power(&catalog, boot_id)? {
                // The originals have all that anybody was told is durable; copies that were not sealed may have less.
                WorkingFiles::discard_copies(directory)?;
            }
            sealed = recovery::recover(id, &mut catalog, &files, boot_id)?;
        }
        catalog.close_whole()?;
        if sealed {
            mark_sealed(directory)?;
        }
        Ok(Some(sealed))
    }

    /// Makes everything the layer holds durable, once.
    pub(crate) fn seal(&self) -> Result<()> {
        let _sealing = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_sealed() {
            self.files.sync_disk()?;
            mark_sealed(&self.directory)?;
            self.sealed.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether everything the layer holds is known to be durable.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }
}

/// Removes layers that no thread refers to and nobody has open, and tells how many and what space they took.
pub fn remove_unneeded_layers(repo: &Repository) -> Removed {
    sweep(repo, &[])
}

/// Removes the layers of a thread that was deleted, as far as no other thread refers to them and nobody has them open,
/// and tells how many and what space they took.
pub fn remove_layers(repo: &Repository, deleted: &ThreadRef) -> Removed {
    let layers: Vec<LayerId> = deleted.layers.iter().chain(&deleted.upper).copied().collect();
    sweep(repo, &layers)
}

/// Removes layers that no thread refers to and nobody has open: `retired` ones, and what a process that died left
/// behind. Best effort: the next one tries again.
pub(crate) fn sweep(repo: &Repository, retired: &[LayerId]) -> Removed {
    let mut removed = Removed::default();
    let (Ok(entries), Ok(threads)) = (std::fs::read_dir(repo.layers_dir()), repo.refs().threads()) else {
        return removed;
    };
    let needed: HashSet<LayerId> =
        threads.iter().flat_map(|thread| thread.layers.iter().chain(&thread.upper)).copied().collect();
    for entry in entries.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<LayerId>().ok());
        let Some(id) = id.filter(|id| !needed.contains(id)) else { continue };
        // One that is being made may have got its name since the threads were read.
        if (retired.contains(&id) || is_old(&entry))
            && let Some(_alone) = Claim::if_free(&entry.path())
        {
            let bytes = disk_use(&entry.path());
            match std::fs::remove_dir_all(entry.path()) {
                Ok(()) => {
                    removed.count += 1;
                    removed.bytes += bytes;
                }
                Err(error) => tracing::warn!(%error, layer = %id, "a layer that nobody needs is left"),
            }
        }
    }
    removed
}

fn is_old(entry: &std::fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age >= LEFTOVER_AGE))
}

fn mark_sealed(directory: &Path) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(directory.join(SEALED), flags, Mode::from_raw_mode(0o600))
        .map_err(ViewError::host("mark a layer as durable"))?;
    sync_directory(directory)
}

fn has(directory: &Path, name: &str) -> Result<bool> {
    directory.join(name).try_exists().map_err(ViewError::host("look into a layer"))
}

/// Whether a catalog was not closed in order: then its file alone does not say everything.
fn is_written(directory: &Path) -> Result<bool> {
    Ok(has(directory, catalog::LOG)? || has(directory, journal::NAME)?)
}

/// The catalog's journal, which exists as long as the catalog is in use.
fn open_journal(layer_dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(layer_dir.join(journal::NAME), flags, Mode::empty())
        .map_err(ViewError::host("open the catalog's journal"))
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(ViewError::host("open a layer"))
}

fn sync_directory(path: &Path) -> Result<()> {
    let fd = open_directory(path)?;
    rustix::fs::fsync(fd.as_fd()).map_err(ViewError::host("fsync of a layer"))
}
