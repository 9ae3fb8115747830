//! What earlier boots and mount namespaces that are gone have left in the runtime directory.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, openat, statat, unlinkat};
use selvedge_mountpoint::mountinfo;

use super::{LOGS, SERVICE_LOCK, START_LOCK};
use crate::runtime::{RUNS, RuntimeDir, WANTED};

/// How long a directory is left alone that nobody needs: its log may tell what happened.
const KEPT: Duration = Duration::from_hours(24);

/// The number of the first process namespace: in it every process of the machine is seen.
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What lies in a directory, besides files.
const PARTS: [&str; 4] = ["mounts", WANTED, LOGS, RUNS];

/// Removes the directories that nobody needs any more: no service has their locks, nobody has written there for a day, and
/// their boot is over without anything that is still wanted, or their mount namespace has no process. What their records
/// tell of has ended with the boot or the namespace. Says which.
pub(super) fn remove(runtime: &RuntimeDir) -> Vec<String> {
    let own = runtime.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((boot, _)) = own.split_once('-') else { return Vec::new() };
    let Ok(entries) = Dir::read_from(runtime.base()) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    let is_over = |name: &String| match name.split_once('-') {
        Some(_) if name == own => false,
        Some((other, namespace)) if other == boot => namespace.parse().is_ok_and(is_deserted),
        Some((other, namespace)) => {
            other.bytes().all(|byte| byte.is_ascii_hexdigit()) && namespace.parse::<u64>().is_ok()
        }
        None => false,
    };
    // Nobody can make again what was wanted in a namespace that is gone.
    let heeds_wanted = |name: &str| !name.starts_with(&format!("{boot}-"));
    names.filter(is_over).filter(|name| remove_one(runtime, name, heeds_wanted(name)).is_some()).collect()
}

/// Whether no process is in the mount namespace of that number, as far as can be told: only where all processes are seen.
fn is_deserted(namespace: u64) -> bool {
    let sees_all = fs::metadata("/proc/self/ns/pid").is_ok_and(|own| own.ino() == FIRST_NAMESPACE);
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    sees_all
        && numbers.map(|pid| format!("/proc/{pid}/ns/mnt")).all(|link| match fs::metadata(link) {
            Ok(other) => other.ino() != namespace,
            // It has ended, or is a kernel thread's or another user's, who has no business with our directory.
            Err(_) => true,
        })
}

/// Removes one, if it is safe to. What is unexpected in it stays, and it with it.
fn remove_one(runtime: &RuntimeDir, name: &str, heeds_wanted: bool) -> Option<()> {
    let path = runtime.base_path().join(name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(runtime.base(), name, flags, Mode::empty()).ok()?;
    // A mount in it would be another namespace's that is seen here.
    if mountinfo::read().ok()?.iter().any(|mount| mount.mount_point.starts_with(&path)) {
        return None;
    }
    // Kept until the end: whoever wants to be the service there is not while it is being removed.
    let locks = [START_LOCK, SERVICE_LOCK].map(|lock| lock_of(&directory, lock));
    if locks.iter().any(|lock| matches!(lock, Held::Elsewhere)) {
        return None;
    }
    let mut files = Vec::new();
    let mut newest = 0;
    for part in ["", "mounts", WANTED, LOGS] {
        for file in entries_of(&directory, part) {
            let file = if part.is_empty() { file } else { format!("{part}/{file}") };
            let status = statat(&directory, &file, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            newest = newest.max(status.st_mtime);
            if PARTS.contains(&&*file) {
                continue;
            }
            if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
                return None;
            }
            files.push(file);
        }
    }
    let is_wanted = |file: &String| heeds_wanted && Path::new(file).starts_with(WANTED);
    if files.iter().any(is_wanted) || !is_old(newest) {
        return None;
    }
    for file in &files {
        unlinkat(&directory, file, AtFlags::empty()).ok()?;
    }
    for run in entries_of(&directory, RUNS) {
        unlinkat(&directory, format!("{RUNS}/{run}"), AtFlags::REMOVEDIR).ok()?;
    }
    for part in PARTS {
        // One that is not there need not go, and one with something in it keeps the whole.
        let _ = unlinkat(&directory, part, AtFlags::REMOVEDIR);
    }
    let removed = unlinkat(runtime.base(), name, AtFlags::REMOVEDIR).ok();
    drop(locks);
    removed
}

/// Whether nothing has happened since that second for as long as directories are kept.
fn is_old(newest: i64) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let newest = Duration::from_secs(u64::try_from(newest).unwrap_or(0));
    now.checked_sub(newest).is_some_and(|age| age >= KEPT)
}

/// A lock of another directory.
enum Held {
    /// There is no such file, so nobody has it.
    Nowhere,
    /// It is ours until this is dropped.
    Here(#[expect(dead_code, reason = "held, not looked at")] File),
    /// Somebody has it, or it cannot be told.
    Elsewhere,
}

fn lock_of(directory: impl AsFd, name: &str) -> Held {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(directory, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Held::Nowhere,
        Err(_) => Held::Elsewhere,
        Ok(fd) => {
            let file = File::from(fd);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Held::Here(file),
                Err(_) => Held::Elsewhere,
            }
        }
    }
}

/// The names in a part of the directory; none if that is not there.
fn entries_of(directory: impl AsFd, part: &str) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let part = if part.is_empty() { "." } else { part };
    let opened = openat(directory, part, flags, Mode::empty()).and_then(Dir::new);
    let entries = opened.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| name != "." && name != "..").collect()
}
