//! What can go wrong with objects.

use crate::{ObjectId, ObjectKind};
use selvedge_mountpoint::shown;
use std::io;
use std::path::PathBuf;

/// Why bytes are not the encoding they were taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the bytes end too early")]
    Truncated,
    /// Bytes follow the last value.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    /// The version byte is not one this program knows.
    #[error("unknown version {0}")]
    Version(u8),
    /// A number is written in more bytes than it needs, or does not fit.
    #[error("a number is not in its shortest form, or is too large")]
    Number,
    /// A value lies outside what its field allows.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// A file name that no directory can hold.
    #[error("a name is empty, too long, '.', '..', or contains '/' or NUL")]
    Name,
    /// Names (or other keys) that are doubled or not in order.
    #[error("{0} are doubled or out of order")]
    Order(&'static str),
}

/// Why an object could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such object.
    #[error("{kind} {id} is missing from the store")]
    Missing {
        /// What was looked for.
        kind: ObjectKind,
        /// Its name.
        id: ObjectId,
    },
    /// The stored bytes are not what their name says.
    #[error("{kind} {id} is damaged: {reason}")]
    Damaged {
        /// What was read.
        kind: ObjectKind,
        /// Its name.
        id: ObjectId,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that no object can hold was to be encoded.
    #[error("cannot encode: {0}")]
    Encode(#[source] DecodeError),
    /// The object database failed.
    #[error("{}: {what}", shown(path))]
    Database {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A system call failed.
    #[error("{}: {what}", shown(path))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An earlier write failed; nothing more is written, because what the disk holds is unknown.
    #[error("the store takes no more writes after an earlier failure: {cause}")]
    Latched {
        /// The first failure.
        cause: String,
    },
}

impl StoreError {
    /// Whether part of the store is missing or is not what it should be.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } => true,
            Self::Database { source, .. } => crate::sqlite::is_damage(source),
            _ => false,
        }
    }

    /// The system's error number behind this error, where there is one: `ENOSPC` and its like are
    /// passed on as what they are.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Database { source, .. } => crate::sqlite::errno(source),
            _ => None,
        }
    }
}
