//! From a host directory to a snapshot.

mod build;
mod capture;
mod numbers;
mod queue;
mod scan;

use crate::attributes;
use crate::repository::network;
use crate::{ObjectId, RefsError, Repository, Snapshot, Store, StoreError, Timestamp};
use globset::GlobSet;
use numbers::Numbers;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use selvedge_mountpoint::{mountinfo, shown};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What to import, and how.
#[derive(Debug)]
pub struct ImportOptions<'a> {
    /// The directory.
    pub source: &'a Path,
    /// What to leave out: matched against paths relative to `source`.
    pub exclude: &'a GlobSet,
    /// The snapshot's message.
    pub message: &'a [u8],
    /// The snapshot this import follows: its parent, whose unchanged files are not read again and
    /// whose inode numbers stay.
    pub previous: Option<ObjectId>,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Names seen so far.
    pub found: u64,
    /// Names that are done.
    pub files: u64,
    /// Bytes of file content done, read or known unchanged.
    pub bytes: u64,
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// The snapshot. No thread points at it yet.
    pub snapshot: ObjectId,
    /// Names captured below the root, directories included.
    pub files: u64,
    /// Bytes of their content, each hard-linked file counted once.
    pub bytes: u64,
    /// Bytes of content the store did not have before.
    pub new_bytes: u64,
    /// Mounts inside the source, captured as empty directories: relative to it, in order.
    pub skipped_mounts: Vec<PathBuf>,
    /// Files that kept changing while they were read; what was read last is kept.
    pub changed: Vec<PathBuf>,
    /// Names that were gone before they could be read, and are left out.
    pub vanished: Vec<PathBuf>,
}

/// Why a directory could not be imported. Nothing refers to what was stored until then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source is not there, or is no directory.
    #[error("{}: cannot import", shown(path))]
    Source {
        /// The source.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The source was removed while it was read.
    #[error("{}: the directory vanished while it was imported", shown(path))]
    Vanished {
        /// The source.
        path: PathBuf,
    },
    /// Something in the source cannot be read.
    #[error("{}: {what}", shown(path))]
    Unreadable {
        /// What, below the source.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The source holds something no snapshot can.
    #[error("{}: {reason}", shown(path))]
    Unsupported {
        /// What, below the source.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// New inode numbers could not be had.
    #[error(transparent)]
    Refs(#[from] RefsError),
}

/// Captures `options.source` as a snapshot. Only objects are written, and they are durable when
/// this returns; moving a thread to the snapshot is the caller's.
///
/// `progress` is called from several threads, some ten times a second together.
pub fn import(
    repository: &Repository,
    options: &ImportOptions<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<ImportReport, ImportError> {
    let time = Timestamp::now();
    let store = repository.store();
    let previous = options.previous.map(|id| store.snapshot(&id)).transpose()?;
    let shared = Shared::new(repository, options, previous.as_ref(), progress)?;
    let before = previous.as_ref().map(|snapshot| snapshot.root.clone());
    let mut scan = scan::scan(&shared, before)?;
    shared.check_root()?;
    let mut numbers = Numbers::new(repository.refs(), store, options.previous.as_ref())?;
    let built = build::build(&shared, &mut numbers, &mut scan)?;
    let parents = options.previous.into_iter().collect();
    let snapshot = Snapshot { root: built.root, parents, time, message: options.message.to_vec() };
    let snapshot = store.put_snapshot(&snapshot)?;
    store.sync()?;
    // A source that was removed while it was read is no whole tree, whatever was still found of it.
    shared.check_root()?;
    shared.progress.report();
    Ok(ImportReport {
        snapshot,
        files: built.files,
        bytes: built.bytes,
        new_bytes: shared.new_bytes(),
        skipped_mounts: sorted(scan.skipped_mounts),
        changed: sorted(scan.changed),
        vanished: sorted(scan.vanished),
    })
}

fn sorted(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort_unstable();
    paths
}

/// What all threads of an import share.
struct Shared<'a> {
    store: &'a Store,
    source: &'a Path,
    root: OwnedFd,
    /// The mount that the source's root is on, the only one that is entered.
    mount: u64,
    /// Whether that is a file system whose attributes must be asked for to be true.
    remote: bool,
    /// The repository's own directory, which is left out: device and inode number.
    repository: (u64, u64),
    exclude: &'a GlobSet,
    unchanged_before: Timestamp,
    /// Blobs that the store did not have before, with their sizes.
    new_blobs: Mutex<HashMap<ObjectId, u64>>,
    progress: Meter<'a>,
}

impl<'a> Shared<'a> {
    fn new(
        repository: &'a Repository,
        options: &ImportOptions<'a>,
        previous: Option<&Snapshot>,
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Result<Self, ImportError> {
        let failed =
            |error: Errno| ImportError::Source { path: options.source.to_owned(), source: error.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(options.source, flags, Mode::empty()).map_err(failed)?;
        let mount = attributes::of_fd(&root).map_err(failed)?.mount;
        let entry = mountinfo::by_id(mount)
            .map_err(|source| ImportError::Source { path: "/proc/self/mountinfo".into(), source })?;
        let own = attributes::of_name_now(CWD, repository.path().as_os_str().as_bytes()).map_err(failed)?;
        Ok(Self {
            store: repository.store(),
            source: options.source,
            root,
            mount,
            remote: entry.is_none_or(|entry| entry.is_fuse() || network(&entry).is_some()),
            repository: own.file,
            exclude: options.exclude,
            unchanged_before: previous.map_or(Timestamp { sec: i64::MIN, nsec: 0 }, |snapshot| {
                capture::unchanged_before(snapshot.time)
            }),
            new_blobs: Mutex::default(),
            progress: Meter::new(progress),
        })
    }

    /// Whether the source is still there: a directory that was removed has no name any more.
    fn check_root(&self) -> Result<(), ImportError> {
        match attributes::of_fd(&self.root) {
            Ok(root) if root.links > 0 => Ok(()),
            _ => Err(ImportError::Vanished { path: self.source.to_owned() }),
        }
    }

    fn absolute(&self, path: &[u8]) -> PathBuf {
        self.source.join(OsStr::from_bytes(path))
    }

    /// Takes note of a blob that is new, once however many files have its bytes.
    fn count_new(&self, blob: ObjectId, bytes: u64) {
        self.new_blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(blob, bytes);
    }

    fn new_bytes(&self) -> u64 {
        self.new_blobs.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// Counts, and tells the counts from time to time.
struct Meter<'a> {
    tell: &'a (dyn Fn(Progress) + Sync),
    found: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    began: Instant,
    /// When it was told last, in milliseconds since `began`.
    told: AtomicU64,
}

/// The least time between two calls of the progress function, in milliseconds.
const TELL_EVERY_MS: u64 = 100;

impl<'a> Meter<'a> {
    fn new(tell: &'a (dyn Fn(Progress) + Sync)) -> Self {
        let zero = || AtomicU64::new(0);
        // The root is found already.
        let found = AtomicU64::new(1);
        Self { tell, found, files: zero(), bytes: zero(), began: Instant::now(), told: zero() }
    }

    fn found(&self) {
        self.found.fetch_add(1, Ordering::Relaxed);
        self.report_if_due();
    }

    fn done(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.report_if_due();
    }

    fn report_if_due(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = self.told.load(Ordering::Relaxed);
        let due = now >= told + TELL_EVERY_MS;
        // Whoever moves the time tells; the others need not.
        if due && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.report();
        }
    }

    fn report(&self) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (self.tell)(Progress {
            found: load(&self.found),
            files: load(&self.files),
            bytes: load(&self.bytes),
        });
    }
}
