//! Who keeps a mount busy.

use std::fmt;

use crate::MountIdentity;

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
/// closed), this process excepted. The mount itself is not asked.
pub fn holders(mount: &MountIdentity) -> Vec<Holder> {
    let _ = mount;
    todo!()
}
