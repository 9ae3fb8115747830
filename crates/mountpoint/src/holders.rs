//! Who keeps a mount busy.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Device, MountIdentity, escape_for_print, mountinfo};

/// A process that keeps a mount busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`), made printable.
    pub name: String,
    /// How it does so; the first way found.
    pub hold: Hold,
}

/// How a process keeps a mount busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Its working directory is there.
    WorkingDirectory,
    /// Its root directory is there.
    Root,
    /// It is a program from there.
    Program,
    /// It has a file or directory open there.
    OpenFile,
    /// It has a file from there in memory.
    Mapping,
    /// Its mount namespace has a copy of the mount.
    Namespace,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WorkingDirectory => "working directory",
            Self::Root => "root directory",
            Self::Program => "program",
            Self::OpenFile => "open file",
            Self::Mapping => "mapped file",
            Self::Namespace => "copy in its mount namespace",
        })
    }
}

/// The processes that keep the mount busy, as far as the caller may see them (`/proc/PID` of other users is
/// closed), this process excepted. The mount itself is not asked: what `/proc` tells is compared by mount number,
/// path and device number.
pub fn holders(mount: &MountIdentity) -> Vec<Holder> {
    let ours = fs::read_link("/proc/self/ns/mnt").ok();
    let me = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Holder> = pids
        .filter(|pid| *pid != me)
        .filter_map(|pid| {
            let process = PathBuf::from(format!("/proc/{pid}"));
            let hold = hold_of(&process, mount, ours.as_deref())?;
            Some(Holder { pid, name: name_of(&process), hold })
        })
        .collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

fn name_of(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    escape_for_print(name.trim_ascii_end())
}

/// How a process holds the mount. The links are cheap and cannot hang; the memory map comes last.
fn hold_of(process: &Path, mount: &MountIdentity, our_namespace: Option<&Path>) -> Option<Hold> {
    let beneath =
        |link: &str| fs::read_link(process.join(link)).is_ok_and(|target| target.starts_with(&mount.path));
    // Paths of a process in another mount namespace mean something else there.
    let namespace = fs::read_link(process.join("ns/mnt")).ok();
    if namespace.as_deref() == our_namespace {
        for (link, hold) in [("cwd", Hold::WorkingDirectory), ("root", Hold::Root), ("exe", Hold::Program)] {
            if beneath(link) {
                return Some(hold);
            }
        }
    } else if namespace.is_some() && has_copy(process, mount.device) {
        return Some(Hold::Namespace);
    }
    if has_open_file(process, mount) {
        return Some(Hold::OpenFile);
    }
    has_mapping(process, mount.device).then_some(Hold::Mapping)
}

fn has_copy(process: &Path, device: Device) -> bool {
    mountinfo::read_from(&process.join("mountinfo"))
        .is_ok_and(|table| table.iter().any(|entry| entry.device == device))
}

/// Descriptors tell the number of the mount they are on.
fn has_open_file(process: &Path, mount: &MountIdentity) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fdinfo")) else { return false };
    let wanted = mount.mount_id.to_string();
    descriptors.filter_map(Result::ok).any(|descriptor| {
        fs::read(descriptor.path()).is_ok_and(|info| {
            info.split(|&byte| byte == b'\n').any(|line| {
                line.strip_prefix(b"mnt_id:").is_some_and(|id| id.trim_ascii() == wanted.as_bytes())
            })
        })
    })
}

/// Lines of `proc_pid_maps(5)`: range, permissions, offset, device (hexadecimal), inode, path.
fn has_mapping(process: &Path, device: Device) -> bool {
    let wanted = format!("{:02x}:{:02x}", device.major, device.minor);
    fs::read(process.join("maps")).is_ok_and(|maps| {
        maps.split(|&byte| byte == b'\n').any(|line| {
            line.split(|&byte| byte == b' ').nth(3).is_some_and(|field| field == wanted.as_bytes())
        })
    })
}
