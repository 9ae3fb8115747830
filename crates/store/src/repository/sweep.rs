//! Removing what dead processes left behind.

use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Younger things are let be: between making and locking a file its maker holds no lock.
pub(super) const LEFTOVER_AGE: Duration = Duration::from_mins(1);

/// Whether `path` is of ours, old enough, and locked by nobody. Its maker keeps it locked for as
/// long as it lives.
pub(super) fn is_abandoned(path: &Path, age: Duration) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    let file = File::from(fd);
    let Ok(stat) = rustix::fs::fstat(&file) else { return false };
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed >= age));
    old && stat.st_uid == rustix::process::geteuid().as_raw()
        && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Removes abandoned blobs from `tmp`. Best effort: the next process tries again.
pub(super) fn sweep_files(tmp: &Path) {
    let Ok(entries) = std::fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let blob = entry.file_name().to_str().is_some_and(|name| name.starts_with("blob-"));
        if blob && is_abandoned(&entry.path(), LEFTOVER_AGE) {
            let removed = std::fs::remove_file(entry.path());
            tracing::debug!(path = %entry.path().display(), ?removed, "swept a temporary file");
        }
    }
}
