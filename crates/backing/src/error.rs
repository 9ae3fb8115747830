//! Why a file could not be registered.

use std::io;
use std::path::PathBuf;

/// Why the helper refuses what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The message is none of this version's.
    #[error("it does not understand the worker, which is of another version")]
    Nonsense,
    /// Not as many descriptors came as the message needs.
    #[error("it did not get the descriptors")]
    Descriptors,
    /// The descriptor that should be a FUSE connection is none.
    #[error("it was given another file instead of /dev/fuse")]
    NotTheDevice,
    /// What should be passed through is no regular file.
    #[error("it was given something else than a regular file")]
    NotRegular,
    /// The file belongs to another user.
    #[error("the file belongs to another user")]
    NotOwn,
    /// The descriptor does not allow both reading and writing anywhere in the file.
    #[error("the file is not open for reading and writing")]
    NotWritable,
    /// The file lies on a file system of which it is not known that the helper's rights give nobody more there.
    #[error("the file lies on a file system of a kind that it does not pass through")]
    FileSystem,
}

impl Refusal {
    /// All there are, each at its number in messages.
    pub(crate) const ALL: [Self; 7] = [
        Self::Nonsense,
        Self::Descriptors,
        Self::NotTheDevice,
        Self::NotRegular,
        Self::NotOwn,
        Self::NotWritable,
        Self::FileSystem,
    ];
}

/// Why a file could not be registered, or not be let go of.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The kernel refused, as it told us or the helper.
    #[error("the kernel refuses it: {0}")]
    Kernel(#[source] io::Error),
    /// The helper refused.
    #[error("{} refuses it: {why}", program.display())]
    Refused {
        /// The helper's program.
        program: PathBuf,
        /// Why.
        why: Refusal,
    },
    /// The helper could not be started, or ended, or did not answer in time.
    #[error("{} does not do its work: {source}", program.display())]
    Helper {
        /// The helper's program.
        program: PathBuf,
        /// What came of asking it.
        source: io::Error,
    },
}

impl BackingError {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel(error) => error.raw_os_error(),
            Self::Refused { .. } | Self::Helper { .. } => None,
        }
    }
}
