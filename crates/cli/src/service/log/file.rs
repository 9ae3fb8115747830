//! A log file of bounded size, with a bounded number of those before it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};

use crate::runtime::RuntimeDir;

/// How large the file grows, and how many are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// In bytes.
    pub(super) size: u64,
    /// Besides the one that is written.
    pub(super) kept: u64,
}

/// A file that lines are added to.
#[derive(Debug)]
pub(super) struct LogFile {
    /// Below the directory of this boot and mount namespace.
    name: String,
    file: File,
    size: u64,
}

impl LogFile {
    pub(super) fn open(runtime: &RuntimeDir, name: String) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(runtime.instance(), &name, flags, Mode::RUSR | Mode::WUSR)?);
        let size = file.metadata()?.len();
        Ok(Self { name, file, size })
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Adds a line, to a new file if this one is full.
    pub(super) fn write(&mut self, runtime: &RuntimeDir, bounds: Bounds, line: &[u8]) {
        if self.size >= bounds.size
            && self.rotate(runtime, bounds).is_ok()
            && let Ok(anew) = Self::open(runtime, self.name.clone())
        {
            *self = anew;
        }
        if self.file.write_all(line).is_ok() {
            self.size += line.len() as u64;
        }
    }

    fn rotate(&self, runtime: &RuntimeDir, bounds: Bounds) -> io::Result<()> {
        let directory = runtime.instance();
        let numbered = |number: u64| format!("{}.{number}", self.name);
        // One more, in case fewer are kept than before.
        for number in [bounds.kept, bounds.kept + 1] {
            let _ = unlinkat(directory, numbered(number), AtFlags::empty());
        }
        for number in (1..bounds.kept).rev() {
            let _ = renameat(directory, numbered(number), directory.as_fd(), numbered(number + 1));
        }
        Ok(renameat(directory, &self.name, directory, numbered(1))?)
    }
}
