//! Small files of JSON in a directory that is held open: written in one step, read with a bound.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest file read, in bytes: two paths of the longest kind, in base64, and then some.
const MAX: u64 = 64 * 1024;

/// What every name of such a file ends in.
const ENDING: &str = ".json";

/// Writes `value` as the file `stem`.json, in one step, in place of what it was.
pub fn write(directory: BorrowedFd<'_>, stem: &str, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(value).map_err(io::Error::other)?;
    let temporary = format!("{stem}.tmp");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file).write_all(&json).and_then(|()| {
        renameat(directory, &temporary, directory, format!("{stem}{ENDING}")).map_err(io::Error::from)
    });
    if written.is_err() {
        let _ = unlinkat(directory, &temporary, AtFlags::empty());
    }
    written
}

/// Removes the file `stem`.json. Nothing there is no error; `false` says that nothing was.
pub fn remove(directory: BorrowedFd<'_>, stem: &str) -> io::Result<bool> {
    match unlinkat(directory, format!("{stem}{ENDING}"), AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Every file of this kind: the stem of its name, and what it says. What cannot be read as such is left alone.
pub fn read_all<T: DeserializeOwned>(directory: BorrowedFd<'_>) -> io::Result<Vec<(String, T)>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Some(stem) = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(ENDING)) else {
            continue;
        };
        if let Some(value) = read(directory, stem) {
            all.push((stem.to_owned(), value));
        }
    }
    Ok(all)
}

fn read<T: DeserializeOwned>(directory: BorrowedFd<'_>, stem: &str) -> Option<T> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, format!("{stem}{ENDING}"), flags, Mode::empty()).ok()?;
    let mut json = Vec::new();
    File::from(file).take(MAX).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json)
        .inspect_err(|error| tracing::warn!("unreadable {stem}{ENDING}: {error}"))
        .ok()
}
