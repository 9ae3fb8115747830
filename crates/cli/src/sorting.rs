//! Other crates' errors sorted into kinds, with what to do next.

use std::io;

use selvedge_mountpoint::{MountpointError, UnmountError};
use selvedge_store::export::ExportError;
use selvedge_store::import::ImportError;
use selvedge_store::{LockError, NameError, RefsError, RepositoryError, ResolveError, StoreError};
use selvedge_supervisor::{CallError, SpawnError, StopError};
use selvedge_view::ViewError;
use selvedge_worker_proto::{ErrorKind, StopRefused};

use crate::error::{CliError, chain};

/// `error` with its causes, of the kind that the system's answer `source` is.
fn from_system(error: &(dyn std::error::Error + 'static), source: &io::Error) -> CliError {
    let kind = CliError::io("", source).kind;
    let sorted = CliError::new(kind, chain(error));
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => sorted.hint("make room on the disk, then try again"),
        _ => sorted,
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Io { source, .. } => from_system(&error, source),
            StoreError::Missing { .. } | StoreError::Damaged { .. } => Self::failed(chain(&error))
                .hint("the repository is damaged: keep a copy of .selvedge, and import again what you have"),
            StoreError::Latched { .. } => {
                Self::failed(chain(&error)).hint("look at the disk, then try again")
            }
            StoreError::Database { .. } | StoreError::Encode(_) => match error.errno() {
                Some(errno) => from_system(&error, &io::Error::from_raw_os_error(errno)),
                None => Self::failed(chain(&error)),
            },
        }
    }
}

impl From<RefsError> for CliError {
    fn from(error: RefsError) -> Self {
        match &error {
            RefsError::NotFound { .. } => {
                Self::not_found(chain(&error)).hint("selvedge thread list shows what there is")
            }
            RefsError::Exists { .. } => Self::conflict(chain(&error)).hint("choose another name"),
            RefsError::Moved { .. } | RefsError::Replaced { .. } => {
                Self::conflict(chain(&error)).hint("try again")
            }
            RefsError::Random(source) => from_system(&error, source),
            RefsError::Latched { .. } => Self::failed(chain(&error)).hint("look at the disk, then try again"),
            RefsError::Damaged { .. } | RefsError::NumbersExhausted { .. } | RefsError::Database { .. } => {
                Self::failed(chain(&error))
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
            RepositoryError::Format { .. } => Self::failed(chain(&error))
                .hint("use the version of selvedge that made the repository, or a newer one"),
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
            RepositoryError::Unwritable { .. } => {
                Self::not_permitted(chain(&error)).hint("check who owns it and whether the disk is read-only")
            }
            RepositoryError::Io { ref source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::not_found(chain(&error))
            }
            RepositoryError::Io { ref source, .. } => from_system(&error, source),
            RepositoryError::Invalid { .. } => Self::failed(chain(&error)),
        }
    }
}

impl From<ViewError> for CliError {
    fn from(error: ViewError) -> Self {
        Self::failed(chain(&error))
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
            ResolveError::Syntax { .. } => Self::usage(chain(&error)),
            ResolveError::NotFound { .. } => Self::not_found(chain(&error)),
            ResolveError::Ambiguous { .. } => Self::usage(chain(&error)).hint("give more digits"),
        }
    }
}

impl From<LockError> for CliError {
    fn from(error: LockError) -> Self {
        match &error {
            LockError::Held { .. } => Self::conflict(chain(&error)),
            LockError::Io { source, .. } => from_system(&error, source),
        }
    }
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => error.into(),
            ImportError::Refs(error) => error.into(),
            ImportError::Source { ref source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::not_found(chain(&error))
            }
            ImportError::Source { ref source, .. } => from_system(&error, source),
            ImportError::Unreadable { ref source, .. } => from_system(&error, source)
                .hint("make it readable, or leave it out with --exclude; no thread was changed"),
            ImportError::Unsupported { .. } => {
                Self::failed(chain(&error)).hint("leave it out with --exclude; no thread was changed")
            }
            ImportError::Vanished { .. } => Self::failed(chain(&error)).hint("no thread was changed"),
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
            ExportError::Source { .. } => Self::failed(chain(&error)),
        }
    }
}

impl From<MountpointError> for CliError {
    fn from(error: MountpointError) -> Self {
        match &error {
            MountpointError::Missing { .. } => Self::not_found(chain(&error)),
            MountpointError::NotEmpty { .. }
            | MountpointError::IsSymlink { .. }
            | MountpointError::NotADirectory { .. } => Self::conflict(chain(&error))
                .hint("choose an empty directory, or one that does not exist yet"),
            MountpointError::OnFuse { .. } => {
                Self::conflict(chain(&error)).hint("choose a directory that lies on no Selvedge mount")
            }
            MountpointError::Io { source, .. } => from_system(&error, source),
            _ => Self::failed(chain(&error)),
        }
    }
}

impl From<UnmountError> for CliError {
    fn from(error: UnmountError) -> Self {
        let kind = match &error {
            UnmountError::Busy { .. } | UnmountError::Covered { .. } => ErrorKind::Conflict,
            UnmountError::NotPermitted { .. } => ErrorKind::NotPermitted,
            UnmountError::TimedOut { .. } => ErrorKind::TimedOut,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<SpawnError> for CliError {
    fn from(error: SpawnError) -> Self {
        let reinstall =
            "install selvedge-fuse-worker beside selvedge, or name it in SELVEDGE_FUSE_WORKER_BIN";
        match error {
            SpawnError::Mount { failure, .. } => failure.into(),
            SpawnError::Missing { .. } | SpawnError::Protocol { .. } => {
                Self::failed(chain(&error)).hint(reinstall)
            }
            SpawnError::NotExecutable { ref source, .. } => from_system(&error, source).hint(reinstall),
            SpawnError::TimedOut { .. } => Self::timed_out(chain(&error)),
            SpawnError::Io { ref source, .. } => from_system(&error, source),
            SpawnError::Cancelled { .. } => {
                Self::failed(chain(&error)).hint("mount it again when you want it")
            }
            _ => Self::failed(chain(&error)),
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
            _ => Self::failed(chain(&error)),
        }
    }
}

impl From<CallError> for CliError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Failed { kind, message } => Self::new(kind, message),
            CallError::TimedOut { .. } => Self::timed_out(chain(&error)),
            _ => Self::failed(chain(&error)),
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
