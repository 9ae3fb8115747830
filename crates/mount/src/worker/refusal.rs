//! Why there is no mount: one sentence for people and a kind for programs.

use std::error::Error;
use std::io;

use selvedge_mountpoint::{MountError, MountpointError};
use selvedge_store::export::ExportError;
use selvedge_store::{LockError, RefsError, RepositoryError, StoreError};
use selvedge_view::ViewError;
use selvedge_worker_proto::{ErrorKind, Failure, advice};

use crate::session::SessionError;
use crate::session_state::SessionStateError;

/// Why there is no mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For programs.
    pub(crate) kind: ErrorKind,
    /// One sentence for people.
    pub(crate) message: String,
    /// What they can do about it.
    pub(crate) hint: String,
}

impl Refusal {
    /// A refusal in the worker's own words, with what to do about it.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: hint.into() }
    }

    /// What the system answered when `tried`.
    pub(crate) fn system(tried: &str, source: &io::Error) -> Self {
        Self::new(kind_of_io(source), format!("{tried}: {source}"), advice(source))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind, refusal.message).hint(refusal.hint)
    }
}

/// An error with all its causes as one sentence. A cause that the text before it tells already is not repeated.
pub(crate) fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // SQLite's numbers stand for the words before them.
        if !text.contains(&more) && !more.starts_with("Error code ") {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::NotPermitted,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    }
}

const DAMAGED: &str = "keep a copy of .selvedge; selvedge fsck names all damage and what it affects; what you have elsewhere comes back if you import it into a new thread: selvedge import DIR --thread NAME";
const NEWER: &str = "use the version of selvedge that made it, or a newer one";

impl From<RepositoryError> for Refusal {
    fn from(error: RepositoryError) -> Self {
        let (kind, hint) = match &error {
            RepositoryError::NotFound { .. } => {
                (ErrorKind::NotFound, "make a repository with selvedge init, or name another with --repo")
            }
            RepositoryError::ForeignOwner { .. } | RepositoryError::WritableByOthers { .. } => {
                (ErrorKind::NotPermitted, "list it in your own configuration, if you trust it")
            }
            RepositoryError::Unwritable { source, .. } => (ErrorKind::NotPermitted, advice(source)),
            RepositoryError::OnSelvedgeMount { .. } => (ErrorKind::Conflict, "keep the repository elsewhere"),
            RepositoryError::OnNetwork { .. } => (ErrorKind::Failed, "keep the repository on a local disk"),
            RepositoryError::Io { source, .. } => (kind_of_io(source), advice(source)),
            RepositoryError::Format { .. } => (ErrorKind::Failed, NEWER),
            RepositoryError::Store(source) => (ErrorKind::Failed, of_number(source.errno())),
            RepositoryError::Invalid { .. } | RepositoryError::Refs(_) => (ErrorKind::Failed, DAMAGED),
        };
        Self::new(kind, sentence(&error), hint)
    }
}

/// What to do about an answer of the system, or, without one, about a store that cannot be read.
pub(super) fn of_number(errno: Option<i32>) -> &'static str {
    errno.map_or(DAMAGED, |errno| advice(&io::Error::from_raw_os_error(errno)))
}

impl From<RefsError> for Refusal {
    fn from(error: RefsError) -> Self {
        let (kind, hint) = match &error {
            RefsError::NotFound { .. } => (ErrorKind::NotFound, "selvedge thread list shows what there is"),
            RefsError::Moved { .. } | RefsError::Replaced { .. } => (ErrorKind::Conflict, "try again"),
            error if error.errno().is_some() => (ErrorKind::Failed, of_number(error.errno())),
            _ => (ErrorKind::Failed, "look at the disk that holds .selvedge, then try again"),
        };
        Self::new(kind, sentence(&error), hint)
    }
}

impl From<LockError> for Refusal {
    fn from(error: LockError) -> Self {
        let (kind, hint) = match &error {
            LockError::Held { .. } => {
                (ErrorKind::Conflict, "wait until it has ended, or unmount the thread there")
            }
            LockError::Io { source, .. } => (kind_of_io(source), advice(source)),
        };
        Self::new(kind, sentence(&error), hint)
    }
}

impl From<ViewError> for Refusal {
    fn from(error: ViewError) -> Self {
        Self::of_view("the thread cannot be opened", &error)
    }
}

impl Refusal {
    /// What the view answered when `tried`.
    pub(crate) fn of_view(tried: &str, error: &ViewError) -> Self {
        let (kind, hint) = match error {
            ViewError::ReadOnly => {
                (ErrorKind::Conflict, "it is mounted read-only: unmount it, then try again")
            }
            error if error.is_damage() => (ErrorKind::Failed, DAMAGED),
            ViewError::Host { source, .. } => (kind_of_io(source), advice(source)),
            ViewError::CatalogFormat { .. } => (ErrorKind::Failed, NEWER),
            ViewError::Store(source) => (ErrorKind::Failed, of_number(source.errno())),
            ViewError::Refs(source) if source.errno().is_some() => {
                (ErrorKind::Failed, of_number(source.errno()))
            }
            ViewError::Damaged { .. } => (ErrorKind::Failed, DAMAGED),
            error if error.is_disk_full() => (ErrorKind::Failed, of_number(Some(libc::ENOSPC))),
            _ => (ErrorKind::Failed, "look at the disk that holds .selvedge, then try again"),
        };
        Self::new(kind, format!("{tried}: {}", sentence(error)), hint)
    }
}

impl From<ExportError> for Refusal {
    fn from(error: ExportError) -> Self {
        let (kind, hint) = match &error {
            ExportError::NotEmpty => (
                ErrorKind::Conflict,
                "choose an empty directory, or make the destination equal to the tree with --delete, which removes what is not in it",
            ),
            ExportError::Destination { source, .. } => (kind_of_io(source), advice(source)),
            ExportError::Source { source, .. } => {
                let in_store = source.downcast_ref::<StoreError>().is_some_and(StoreError::is_damage);
                let in_view = source.downcast_ref::<ViewError>().is_some_and(ViewError::is_damage);
                let advice = "look at the disk that holds .selvedge, then try again";
                (ErrorKind::Failed, if in_store || in_view { DAMAGED } else { advice })
            }
        };
        Self::new(kind, sentence(&error), hint)
    }
}

impl From<MountpointError> for Refusal {
    fn from(error: MountpointError) -> Self {
        let (kind, hint) = match &error {
            MountpointError::Missing { .. } => (ErrorKind::NotFound, "make the directory first"),
            MountpointError::IsSymlink { .. }
            | MountpointError::NotADirectory { .. }
            | MountpointError::NotEmpty { .. } => {
                (ErrorKind::Conflict, "choose an empty directory, or one that does not exist yet")
            }
            MountpointError::OnFuse { .. } => {
                (ErrorKind::Conflict, "choose a directory that lies on no Selvedge mount")
            }
            MountpointError::Io { source, .. } => (kind_of_io(source), advice(source)),
            _ => (ErrorKind::Failed, "choose another directory"),
        };
        Self::new(kind, sentence(&error), hint)
    }
}

impl From<MountError> for Refusal {
    fn from(error: MountError) -> Self {
        let kind = match &error {
            MountError::NotPermitted { .. } => ErrorKind::NotPermitted,
            MountError::Swapped { .. } => ErrorKind::Conflict,
            MountError::TimedOut { .. } => ErrorKind::TimedOut,
            MountError::Io { source, .. } => kind_of_io(source),
            _ => ErrorKind::Failed,
        };
        Self::new(kind, sentence(&error), error.advice())
    }
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        let (kind, hint) = match &error {
            SessionError::NoInit => (ErrorKind::TimedOut, "try again; the kernel's log (dmesg) may say more"),
            SessionError::Io { source, .. } => (kind_of_io(source), advice(source)),
            SessionError::Disconnected => (ErrorKind::Failed, "mount again, if nobody meant to unmount it"),
            SessionError::Disagreement => (ErrorKind::Failed, "unmount the thread and mount it again"),
            SessionError::Version { .. } => (ErrorKind::Failed, "use a newer Linux kernel"),
        };
        Self::new(kind, sentence(&error), hint)
    }
}

impl From<SessionStateError> for Refusal {
    fn from(error: SessionStateError) -> Self {
        Self::new(ErrorKind::Failed, sentence(&error), "unmount the thread and mount it again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the outside")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("the outside: {0}")]
    struct Telling(#[source] io::Error);

    #[test]
    fn causes_are_told_once() {
        assert_eq!(sentence(&Outer(io::Error::other("the inside"))), "the outside: the inside");
        assert_eq!(sentence(&Telling(io::Error::other("the inside"))), "the outside: the inside");
    }
}
