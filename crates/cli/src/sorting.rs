//! Other crates' errors sorted into kinds, with what to do next.

use std::io;

use selvedge_mountpoint::{MountpointError, UnmountError};
use selvedge_store::compare::CompareError;
use selvedge_store::export::{ExportError, SourceError};
use selvedge_store::fsck::FsckError;
use selvedge_store::gc::GcError;
use selvedge_store::import::ImportError;
use selvedge_store::{HoldError, LockError, NameError, RefsError, RepositoryError, ResolveError, StoreError};
use selvedge_supervisor::{CallError, SpawnError, StopError};
use selvedge_view::ViewError;
use selvedge_worker_proto::{ErrorKind, Failure, StopRefused, advice};

use crate::error::{CliError, chain, kind_of};

const DAMAGED: &str = "keep a copy of .selvedge; selvedge fsck names all damage and what it affects; what you have elsewhere comes back if you import it into a new thread: selvedge import DIR --thread NAME";
const LOOK_AT_DISK: &str = "look at the disk that holds .selvedge, then try again";
const NEWER: &str = "use the version of selvedge that made it, or a newer one";
const SYNTAX: &str = "snapshot ids are 64 hexadecimal digits, of which 8 suffice where they are unique";

/// `error` with its causes, of the kind that the system's answer `source` is.
fn from_system(error: &(dyn std::error::Error + 'static), source: &io::Error) -> CliError {
    CliError::new(kind_of(source), chain(error)).hint(advice(source))
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        match &error {
            _ if error.is_damage() => Self::failed(chain(&error)).hint(DAMAGED),
            StoreError::Io { source, .. } => from_system(&error, source),
            StoreError::Missing { .. } | StoreError::Damaged { .. } | StoreError::Latched { .. } => {
                Self::failed(chain(&error)).hint(LOOK_AT_DISK)
            }
            StoreError::Database { .. } | StoreError::Encode(_) => match error.errno() {
                Some(errno) => from_system(&error, &io::Error::from_raw_os_error(errno)),
                None => Self::failed(chain(&error)).hint(LOOK_AT_DISK),
            },
        }
    }
}

impl From<HoldError> for CliError {
    fn from(error: HoldError) -> Self {
        match &error {
            HoldError::Busy { removing: true } => {
                Self::timed_out(chain(&error)).hint("try again when selvedge gc has ended")
            }
            HoldError::Busy { removing: false } => Self::timed_out(chain(&error))
                .hint("try again when running imports, exports, snapshots and comparisons have ended"),
            HoldError::Io { source, .. } => from_system(&error, source),
        }
    }
}

impl From<GcError> for CliError {
    fn from(error: GcError) -> Self {
        match error {
            GcError::Unclear { .. } => Self::failed(chain(&error))
                .hint("selvedge fsck names all that is damaged, and what it affects"),
            GcError::Refs(refs) => Self::from(refs).context("cannot read all threads, so nothing is removed"),
            GcError::Hold(hold) => hold.into(),
            GcError::Store(store) => store.into(),
        }
    }
}

impl From<FsckError> for CliError {
    fn from(error: FsckError) -> Self {
        match error {
            FsckError::Store(error) => error.into(),
            FsckError::Refs(error) => error.into(),
        }
    }
}

/// The error of whatever a tree is read from.
pub fn from_source(error: SourceError) -> CliError {
    let error = match error.downcast::<CliError>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    let error = match error.downcast::<StoreError>() {
        Ok(error) => return (*error).into(),
        Err(error) => error,
    };
    match error.downcast::<ViewError>() {
        Ok(error) => (*error).into(),
        Err(error) => CliError::failed(chain(&*error)).hint(DAMAGED),
    }
}

impl From<CompareError> for CliError {
    fn from(error: CompareError) -> Self {
        let path = selvedge_mountpoint::escape_for_print(&error.path);
        from_source(error.source).context(if path.is_empty() {
            "cannot read the tree".to_owned()
        } else {
            format!("cannot read {path}")
        })
    }
}

impl From<RefsError> for CliError {
    fn from(error: RefsError) -> Self {
        match &error {
            _ if error.is_damage() => Self::failed(chain(&error)).hint(DAMAGED),
            RefsError::NotFound { .. } => {
                Self::not_found(chain(&error)).hint("selvedge thread list shows what there is")
            }
            RefsError::Exists { .. } => Self::conflict(chain(&error)).hint("choose another name"),
            RefsError::Moved { .. } | RefsError::Replaced { .. } => {
                Self::conflict(chain(&error)).hint("try again")
            }
            RefsError::Random(source) => from_system(&error, source),
            RefsError::NumbersExhausted { .. } => {
                Self::failed(chain(&error)).hint("import what you have into a new repository")
            }
            RefsError::Damaged { .. } | RefsError::Latched { .. } | RefsError::Database { .. } => {
                match error.errno() {
                    Some(errno) => from_system(&error, &io::Error::from_raw_os_error(errno)),
                    None => Self::failed(chain(&error)).hint(LOOK_AT_DISK),
                }
            }
        }
    }
}

impl From<RepositoryError> for CliError {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Store(error) => error.into(),
            RepositoryError::Refs(error) => error.into(),
            RepositoryError::NotFound { .. } => Self::not_found(chain(&error))
                .hint("make one with selvedge init, or name another with --repo or SELVEDGE_REPO"),
            RepositoryError::Format { .. } => Self::failed(chain(&error)).hint(NEWER),
            RepositoryError::ForeignOwner { .. } | RepositoryError::WritableByOthers { .. } => {
                Self::not_permitted(chain(&error)).hint(
                    "if you trust it, list its directory in ~/.config/selvedge/config.toml: [safe] repositories = [\"/path\"]",
                )
            }
            RepositoryError::OnSelvedgeMount { .. } => Self::conflict(chain(&error))
                .hint("a worker whose repository lies on a mount would wait for itself; keep it elsewhere"),
            RepositoryError::OnNetwork { .. } => {
                Self::failed(chain(&error)).hint("keep the repository on a local disk")
            }
            RepositoryError::Unwritable { ref source, .. } => {
                Self::not_permitted(chain(&error)).hint(advice(source))
            }
            RepositoryError::Io { ref source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::not_found(chain(&error)).hint(advice(source))
            }
            RepositoryError::Io { ref source, .. } => from_system(&error, source),
            RepositoryError::Invalid { .. } => Self::failed(chain(&error)).hint(
                "if it is a damaged repository, keep a copy; if it is none, move it away, then use selvedge init",
            ),
        }
    }
}

impl From<ViewError> for CliError {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::Store(error) => error.into(),
            ViewError::Refs(error) => error.into(),
            error if error.is_damage() => Self::failed(chain(&error)).hint(DAMAGED),
            ViewError::Host { ref source, .. } => from_system(&error, source),
            ViewError::CatalogFormat { .. } => Self::failed(chain(&error)).hint(NEWER),
            error if error.is_disk_full() => from_system(&error, &io::Error::from_raw_os_error(libc::ENOSPC)),
            error => Self::failed(chain(&error)).hint(LOOK_AT_DISK),
        }
    }
}

impl From<NameError> for CliError {
    fn from(error: NameError) -> Self {
        Self::usage(chain(&error))
            .hint("names are 1 to 100 of letters, digits, '.', '_' and '-', not starting with '-' or '.'")
    }
}

impl From<ResolveError> for CliError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Store(error) => error.into(),
            ResolveError::Syntax { .. } => Self::usage(chain(&error)).hint(SYNTAX),
            ResolveError::NotFound { .. } => Self::not_found(chain(&error))
                .hint("selvedge thread list shows the threads and their snapshots"),
            ResolveError::Ambiguous { .. } => Self::usage(chain(&error)).hint("give more digits"),
        }
    }
}

impl From<LockError> for CliError {
    fn from(error: LockError) -> Self {
        match &error {
            LockError::Held { .. } => {
                Self::conflict(chain(&error)).hint("wait until that has ended, or unmount the thread there")
            }
            LockError::Io { source, .. } => from_system(&error, source),
        }
    }
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        let left_out = "leave it out with --exclude; no thread was changed";
        match error {
            ImportError::Store(error) => error.into(),
            ImportError::Refs(error) => error.into(),
            ImportError::Source { ref source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Self::not_found(chain(&error)).hint("name a directory that exists; no thread was changed")
                }
                io::ErrorKind::NotADirectory => Self::conflict(chain(&error))
                    .hint("name the directory that holds it; no thread was changed"),
                _ => from_system(&error, source),
            },
            ImportError::Unreadable { ref source, .. } => {
                from_system(&error, source).hint(format!("make it readable, or {left_out}"))
            }
            ImportError::Unsupported { .. } => Self::failed(chain(&error)).hint(left_out),
            ImportError::Vanished { .. } => Self::failed(chain(&error))
                .hint("import again when nothing removes it; no thread was changed"),
        }
    }
}

impl From<ExportError> for CliError {
    fn from(error: ExportError) -> Self {
        match &error {
            ExportError::NotEmpty => Self::conflict(chain(&error)).hint(
                "choose an empty directory, or make the destination equal to the tree with --delete, which removes what is not in it",
            ),
            ExportError::Destination { source, .. } => from_system(&error, source),
            ExportError::Source { source, .. } => {
                let in_store = source.downcast_ref::<StoreError>().is_some_and(StoreError::is_damage);
                let in_view = source.downcast_ref::<ViewError>().is_some_and(ViewError::is_damage);
                let hint = if in_store || in_view { DAMAGED } else { LOOK_AT_DISK };
                Self::failed(chain(&error)).hint(hint)
            }
        }
    }
}

impl From<MountpointError> for CliError {
    fn from(error: MountpointError) -> Self {
        match &error {
            MountpointError::Missing { .. } => {
                Self::not_found(chain(&error)).hint("make the directory first")
            }
            MountpointError::NotEmpty { .. }
            | MountpointError::IsSymlink { .. }
            | MountpointError::NotADirectory { .. } => Self::conflict(chain(&error))
                .hint("choose an empty directory, or one that does not exist yet"),
            MountpointError::OnFuse { .. } => {
                Self::conflict(chain(&error)).hint("choose a directory that lies on no Selvedge mount")
            }
            MountpointError::Io { source, .. } => from_system(&error, source),
            _ => Self::failed(chain(&error)).hint("choose another directory"),
        }
    }
}

impl From<UnmountError> for CliError {
    fn from(error: UnmountError) -> Self {
        let (kind, hint) = match &error {
            UnmountError::Busy { .. } => {
                (ErrorKind::Conflict, "end or leave what uses it, or unmount with --force, which cuts it off")
            }
            UnmountError::Covered { .. } => (ErrorKind::Conflict, "unmount first what lies over it"),
            UnmountError::NotPermitted { .. } => {
                (ErrorKind::NotPermitted, "unmount it as the user who mounted it, or as root")
            }
            UnmountError::NoHelper { .. } => {
                (ErrorKind::Failed, "install the fuse3 package (apt install fuse3), or unmount as root")
            }
            UnmountError::TimedOut { .. } => (ErrorKind::TimedOut, "try again, or unmount with --force"),
            UnmountError::Io { source, .. } => (kind_of(source), advice(source)),
            _ => (ErrorKind::Failed, "selvedge doctor says what is missing here"),
        };
        Self::new(kind, chain(&error)).hint(hint)
    }
}

impl From<SpawnError> for CliError {
    fn from(error: SpawnError) -> Self {
        const REINSTALL: &str =
            "install selvedge-fuse-worker beside selvedge, or name it in SELVEDGE_FUSE_WORKER_BIN";
        const ITS_WORDS: &str =
            "selvedge doctor says what mounting needs here; with -v selvedge logs what the worker says";
        match error {
            SpawnError::Mount { failure, .. } => failure.into(),
            SpawnError::Missing { .. } | SpawnError::Protocol { .. } => {
                Self::failed(chain(&error)).hint(REINSTALL)
            }
            SpawnError::NotExecutable { ref source, .. } => from_system(&error, source).hint(REINSTALL),
            SpawnError::TimedOut { .. } => Self::timed_out(chain(&error)).hint(ITS_WORDS),
            SpawnError::Cancelled { .. } => {
                Self::failed(chain(&error)).hint("mount it again when you want it")
            }
            SpawnError::Io { ref source, .. } => from_system(&error, source),
            _ => Self::failed(chain(&error)).hint(ITS_WORDS),
        }
    }
}

impl From<StopError> for CliError {
    fn from(error: StopError) -> Self {
        match error {
            StopError::Busy(refused) => busy(&refused),
            StopError::Failed(failure) => failure.into(),
            StopError::Unkillable { .. } => {
                Self::timed_out(chain(&error)).hint("it waits in the kernel, most likely for a disk")
            }
            _ => Self::failed(chain(&error)).hint("try again, or unmount with --force"),
        }
    }
}

impl From<CallError> for CliError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Failed { kind, message, hint } => Failure::new(kind, message).hint(hint).into(),
            CallError::TimedOut { .. } => Self::timed_out(chain(&error))
                .hint("try again; if it stays so, unmount it with --force: every change made is kept"),
            CallError::Recovering => Self::failed(chain(&error)).hint("try again"),
            CallError::Ended => {
                Self::failed(chain(&error)).hint("mount the thread again: every change made is kept")
            }
            _ => Self::failed(chain(&error)).hint("unmount the thread, then mount it again"),
        }
    }
}

/// A mount that stays because somebody uses it, and who.
pub fn busy(refused: &StopRefused) -> CliError {
    let mut names: Vec<String> =
        refused.holders.iter().map(|holder| format!("{} (pid {})", holder.name, holder.pid)).collect();
    if refused.more_holders > 0 {
        names.push(format!("{} more", refused.more_holders));
    }
    let message = if names.is_empty() {
        refused.message.clone()
    } else {
        format!("{}: held by {}", refused.message, names.join(", "))
    };
    CliError::conflict(message).hint("end or leave what uses it, or unmount with --force, which cuts it off")
}
