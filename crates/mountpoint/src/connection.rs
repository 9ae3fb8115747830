//! The control files of FUSE connections, `/sys/fs/fuse/connections`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Device, shown};

/// Why a connection was not aborted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AbortError {
    /// The control file system is not mounted, or has no such connection (any more).
    #[error("no control file {}", shown(path))]
    Unavailable {
        /// The control file.
        path: PathBuf,
    },
    /// The system refused: the file belongs to the user who mounted.
    #[error("cannot write {}: {source}", shown(path))]
    Io {
        /// The control file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Where the control file system is mounted, where it is.
const CONTROL: &str = "/sys/fs/fuse/connections";

/// Ends a FUSE connection: every request, waiting or new, fails at once with ECONNABORTED or ENOTCONN.
pub fn abort_connection(device: Device) -> Result<(), AbortError> {
    abort_at(Path::new(CONTROL), device)
}

fn abort_at(control: &Path, device: Device) -> Result<(), AbortError> {
    let path = control.join(device.minor.to_string()).join("abort");
    // Never created: without the control file system the directory is an ordinary one.
    let result = OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"1"));
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(AbortError::Unavailable { path }),
        Err(source) => Err(AbortError::Io { path, source }),
    }
}
