//! Why an operation on a view is refused or fails.

use selvedge_store::{Ino, LayerId, RefsError, StoreError};
use std::io;

/// Result of a view operation.
pub type Result<T> = std::result::Result<T, ViewError>;

/// Why an operation on a view is refused or fails. The FUSE adapter turns each into its errno in one table.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No such name or node.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists")]
    Exists,
    /// A directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory where none may be.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// An argument makes no sense for this node.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// A name over 255 bytes.
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// Not allowed for this kind of node.
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    /// A directory would be moved beneath itself.
    #[error("a directory cannot be moved beneath itself")]
    Loop,
    /// The node has as many names as it can have.
    #[error("too many links")]
    TooManyLinks,
    /// The view was opened for reading.
    #[error("the view is read-only")]
    ReadOnly,
    /// The handle is unknown or was not opened for this.
    #[error("bad handle")]
    BadHandle,
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// An extended attribute or the set of them is too large.
    #[error("the extended attribute is too large")]
    XattrTooBig,
    /// Nothing at or behind that offset.
    #[error("no data at or behind the offset")]
    NoData,
    /// Beyond the largest file.
    #[error("the file would be too large")]
    FileTooBig,
    /// Not built for this node or mode.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// An earlier durable write failed; nothing more is accepted until the view is opened anew.
    #[error("the thread is read-only since a durable write failed: {0}")]
    Latched(String),
    /// The layers contradict themselves.
    #[error("node {ino:?} is damaged: {why}")]
    Damaged {
        /// The node.
        ino: Ino,
        /// What is wrong.
        why: String,
    },
    /// A loss of power took a frozen layer before it was durable.
    #[error("layer {layer} was lost with the power before it was durable")]
    LayerLost {
        /// The layer.
        layer: LayerId,
    },
    /// A layer of the thread cannot be used at all.
    #[error("layer {layer} cannot be opened: {source}")]
    Layer {
        /// The layer.
        layer: LayerId,
        /// Why not.
        source: Box<ViewError>,
    },
    /// The host refused a system call.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
    /// The catalog failed.
    #[error("catalog: {0}")]
    Catalog(#[from] rusqlite::Error),
    /// The journal before a catalog has a record that is whole and stands for nothing.
    #[error("record {record} of the catalog's journal cannot be read")]
    Journal {
        /// The record's number.
        record: u64,
    },
    /// A layer's catalog was made by another version of the program.
    #[error("the catalog has format {found:?}, this program knows {known}")]
    CatalogFormat {
        /// What the catalog says.
        found: Option<i64>,
        /// What this program reads.
        known: i64,
    },
    /// The thread's reference could not be read or moved.
    #[error(transparent)]
    Refs(#[from] RefsError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ViewError {
    /// Wraps a host error with what was tried; for use in `map_err`.
    pub(crate) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host { what, source: source.into() }
    }

    /// Whether the disk had no room: the one failed commit after which nothing is in doubt.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Catalog(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::Host { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
            }
            Self::Layer { source, .. } => source.is_disk_full(),
            Self::Refs(source) => source.errno() == Some(libc::ENOSPC),
            _ => false,
        }
    }

    /// Wraps an error with the layer that could not be opened; for use in `map_err`.
    pub(crate) fn in_layer(layer: LayerId) -> impl FnOnce(Self) -> Self {
        move |source| Self::Layer { layer, source: Box::new(source) }
    }

    /// Whether part of the repository is missing or is not what it should be.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, NotADatabase};
        match self {
            Self::Damaged { .. } | Self::LayerLost { .. } | Self::Journal { .. } => true,
            Self::Catalog(error) => {
                matches!(error.sqlite_error_code(), Some(CannotOpen | DatabaseCorrupt | NotADatabase))
            }
            // Looked for within a layer, it is missing from it.
            Self::Layer { source, .. } => match &**source {
                Self::Host { source, .. } => source.kind() == io::ErrorKind::NotFound,
                source => source.is_damage(),
            },
            Self::Store(error) => error.is_damage(),
            Self::Refs(error) => error.is_damage(),
            _ => false,
        }
    }
}
