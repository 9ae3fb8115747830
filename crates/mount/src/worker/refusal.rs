//! Why there is no mount: one sentence for people and a kind for programs.

use std::error::Error;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use selvedge_mountpoint::{MountError, MountpointError, escape_for_print};
use selvedge_store::{LockError, RefsError, RepositoryError};
use selvedge_view::ViewError;
use selvedge_worker_proto::ErrorKind;

use crate::session::SessionError;

/// Why there is no mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For programs.
    pub(crate) kind: ErrorKind,
    /// One sentence for people.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal in the worker's own words.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// A path as a message shows it: in quotes, and harmless to a terminal.
pub(crate) fn shown(path: &Path) -> String {
    format!("\"{}\"", escape_for_print(path.as_os_str().as_bytes()))
}

/// An error with all its causes as one sentence. A cause that the text before it tells already is not repeated.
pub(crate) fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
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

impl From<RepositoryError> for Refusal {
    fn from(error: RepositoryError) -> Self {
        let kind = match &error {
            RepositoryError::NotFound { .. } => ErrorKind::NotFound,
            RepositoryError::ForeignOwner { .. }
            | RepositoryError::WritableByOthers { .. }
            | RepositoryError::Unwritable { .. } => ErrorKind::NotPermitted,
            RepositoryError::OnSelvedgeMount { .. } => ErrorKind::Conflict,
            RepositoryError::Io { source, .. } => kind_of_io(source),
            _ => ErrorKind::Failed,
        };
        Self::new(kind, sentence(&error))
    }
}

impl From<RefsError> for Refusal {
    fn from(error: RefsError) -> Self {
        match &error {
            RefsError::NotFound { .. } => Self::new(ErrorKind::NotFound, sentence(&error)),
            RefsError::Moved { .. } | RefsError::Replaced { .. } => {
                Self::new(ErrorKind::Conflict, format!("{}; try again", sentence(&error)))
            }
            _ => Self::new(ErrorKind::Failed, sentence(&error)),
        }
    }
}

impl From<LockError> for Refusal {
    fn from(error: LockError) -> Self {
        let kind = match &error {
            LockError::Held { .. } => ErrorKind::Conflict,
            LockError::Io { source, .. } => kind_of_io(source),
        };
        Self::new(kind, sentence(&error))
    }
}

impl From<ViewError> for Refusal {
    fn from(error: ViewError) -> Self {
        let kind = match &error {
            ViewError::Host { source, .. } => kind_of_io(source),
            _ => ErrorKind::Failed,
        };
        Self::new(kind, format!("the thread cannot be opened: {}", sentence(&error)))
    }
}

impl From<MountpointError> for Refusal {
    fn from(error: MountpointError) -> Self {
        let kind = match &error {
            MountpointError::Missing { .. } => ErrorKind::NotFound,
            MountpointError::IsSymlink { .. }
            | MountpointError::NotADirectory { .. }
            | MountpointError::NotEmpty { .. }
            | MountpointError::OnFuse { .. } => ErrorKind::Conflict,
            MountpointError::Io { source, .. } => kind_of_io(source),
            _ => ErrorKind::Failed,
        };
        Self::new(kind, sentence(&error))
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
        Self::new(kind, sentence(&error))
    }
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        let kind = match &error {
            SessionError::NoInit => ErrorKind::TimedOut,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, sentence(&error))
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
