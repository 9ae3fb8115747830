//! The control files of FUSE connections, `/sys/fs/fuse/connections`.

use std::io;
use std::path::PathBuf;

use crate::Device;

/// Why a connection was not aborted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AbortError {
    /// The control file system is not mounted, or has no such connection (any more).
    #[error("no control file {path:?}")]
    Unavailable {
        /// The control file.
        path: PathBuf,
    },
    /// The system refused: the file belongs to the user who mounted.
    #[error("cannot write {path:?}: {source}")]
    Io {
        /// The control file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Ends a FUSE connection: every request, waiting or new, fails at once with ECONNABORTED or ENOTCONN.
pub fn abort_connection(device: Device) -> Result<(), AbortError> {
    let _ = device;
    todo!()
}
