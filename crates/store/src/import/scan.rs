//! Walking the source with several threads, a directory or a batch of files at a time.

use super::capture::{self, Captured, Failure, Outcome};
use super::queue::Queue;
use super::{ImportError, Shared};
use crate::attributes::{self, Attributes};
use crate::beneath::{self, join};
use crate::{Content, Entry, FIRST_NEW_INO, FileKind, ObjectId, ObjectKind, Tree, Xattrs};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many files one thread takes at a time.
const BATCH: usize = 128;

/// Fewer threads would leave the disk idle: each large blob is synced by itself, and syncs that
/// wait together share the disk's work.
const LEAST_THREADS: usize = 8;

/// How much of a file is read at a time.
const BUFFER: usize = 256 * 1024;

/// A directory of the source. A parent has a smaller position than its children.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) parent: usize,
    pub(super) name: Box<[u8]>,
    /// Nothing if it vanished.
    pub(super) captured: Option<Captured>,
}

/// A name of the source that is no directory.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) directory: usize,
    pub(super) name: Box<[u8]>,
    pub(super) captured: Captured,
}

/// All that was found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) directories: Vec<Directory>,
    pub(super) files: Vec<Named>,
    pub(super) skipped_mounts: Vec<PathBuf>,
    pub(super) changed: Vec<PathBuf>,
    pub(super) vanished: Vec<PathBuf>,
}

enum Job {
    /// A directory to open and list, with the tree and the entry it had before.
    List { position: usize, previous: Option<Entry> },
    /// Names of an open directory to capture.
    Capture { listed: Arc<Listed>, names: Vec<(Box<[u8]>, Attributes)> },
}

/// A directory that is open.
struct Listed {
    position: usize,
    path: Vec<u8>,
    fd: OwnedFd,
    previous: Option<Arc<Tree>>,
}

/// Captures everything beneath the source's root.
pub(super) fn scan(shared: &Shared<'_>, previous: Option<Entry>) -> Result<Scan, ImportError> {
    let root = Directory { parent: 0, name: Box::default(), captured: None };
    let scanner = Scanner {
        shared,
        queue: Queue::new(Job::List { position: 0, previous }),
        found: Mutex::new(Scan { directories: vec![root], ..Scan::default() }),
        failure: Mutex::new(None),
    };
    let threads = std::thread::available_parallelism().map_or(0, usize::from).clamp(LEAST_THREADS, 16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| scanner.work());
        }
    });
    match scanner.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(scanner.found.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

struct Scanner<'a> {
    shared: &'a Shared<'a>,
    queue: Queue<Job>,
    found: Mutex<Scan>,
    failure: Mutex<Option<ImportError>>,
}

impl Scanner<'_> {
    fn work(&self) {
        let mut buffer = vec![0; BUFFER];
        self.queue.work(|job| {
            let done = match job {
                Job::List { position, previous } => self.list(position, previous.as_ref(), &mut buffer),
                Job::Capture { listed, names } => self.capture(&listed, names, &mut buffer),
            };
            if let Err(error) = done {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.queue.stop();
            }
        });
    }

    fn found(&self) -> MutexGuard<'_, Scan> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self, position: usize, previous: Option<&Entry>, buffer: &mut [u8]) -> Result<(), ImportError> {
        let path = self.path_of(position);
        let unreadable = |what| {
            let path = self.shared.absolute(&path);
            move |error: Errno| Failure::System(what, error).at(path)
        };
        let fd = match beneath::open_directory(self.shared.root.as_fd(), &path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.found().vanished.push(relative(&path));
                return Ok(());
            }
            // Mounted meanwhile.
            Err(Errno::XDEV) => return self.skip_mount(position, &path),
            Err(error) => return Err(unreadable("cannot open the directory")(error)),
        };
        let found = attributes::of_fd(&fd).map_err(unreadable("cannot look at the directory"))?;
        let xattrs = attributes::xattrs_of_fd(fd.as_fd())
            .map_err(unreadable("cannot read the extended attributes"))?;
        let kept = previous.and_then(|entry| capture::same_file(entry, &found));
        let before = previous.and_then(tree_of);
        let captured = Captured { attributes: found, xattrs, kept, content: None };
        self.found().directories[position].captured = Some(captured);
        self.shared.progress.done(0);
        let before = before.map(|tree| self.shared.store.tree(&tree)).transpose()?;
        let names = beneath::names(&fd).map_err(unreadable("cannot list the directory"))?;
        let listed = Listed { position, path, fd, previous: before };
        self.sort_out(listed, names, buffer)
    }

    /// Looks at each name: directories and batches of files become jobs of their own.
    fn sort_out(&self, listed: Listed, names: Vec<Box<[u8]>>, buffer: &mut [u8]) -> Result<(), ImportError> {
        let (mut lists, mut files) = (Vec::new(), Vec::new());
        for name in names {
            let path = join(&listed.path, &name);
            if self.shared.exclude.is_match(relative(&path)) {
                continue;
            }
            let Some(found) = self.look_at(&listed, &name, &path)? else { continue };
            if found.file == self.shared.repository {
                continue;
            }
            self.shared.progress.found();
            if found.mount != self.shared.mount {
                self.keep_mountpoint(&listed, name, &found, &path);
            } else if found.kind == FileKind::Directory {
                let previous = listed.previous.as_ref().and_then(|tree| tree.lookup(&name));
                lists.push((name, previous));
            } else {
                files.push((name, found));
            }
        }
        self.queue_lists(&listed, lists);
        let listed = Arc::new(listed);
        while files.len() > BATCH {
            let names = files.split_off(files.len() - BATCH);
            self.queue.push([Job::Capture { listed: Arc::clone(&listed), names }]);
        }
        self.capture(&listed, files, buffer)
    }

    fn look_at(&self, listed: &Listed, name: &[u8], path: &[u8]) -> Result<Option<Attributes>, ImportError> {
        let mut found = attributes::of_name(listed.fd.as_fd(), name);
        if self.shared.remote && found.as_ref().is_ok_and(|found| found.mount == self.shared.mount) {
            found = attributes::of_name_now(listed.fd.as_fd(), name);
        }
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => {
                self.found().vanished.push(relative(path));
                Ok(None)
            }
            Err(error) => Err(Failure::System("cannot look at it", error).at(self.shared.absolute(path))),
        }
    }

    fn queue_lists(&self, listed: &Listed, lists: Vec<(Box<[u8]>, Option<Entry>)>) {
        let jobs: Vec<_> = {
            let mut found = self.found();
            let add = |(name, previous)| {
                let position = found.directories.len();
                found.directories.push(Directory { parent: listed.position, name, captured: None });
                Job::List { position, previous }
            };
            lists.into_iter().map(add).collect()
        };
        self.queue.push(jobs);
    }

    fn capture(
        &self,
        listed: &Listed,
        names: Vec<(Box<[u8]>, Attributes)>,
        buffer: &mut [u8],
    ) -> Result<(), ImportError> {
        let mut captured = Vec::with_capacity(names.len());
        for (name, found) in names {
            let path = join(&listed.path, &name);
            let previous = listed.previous.as_ref().and_then(|tree| tree.lookup(&name));
            let outcome = capture::file(self.shared, listed.fd.as_fd(), &name, found, previous, buffer)
                .map_err(|failure| failure.at(self.shared.absolute(&path)))?;
            let file = match outcome {
                Outcome::Captured(file) => file,
                Outcome::Changed(file) => {
                    self.found().changed.push(relative(&path));
                    file
                }
                Outcome::Vanished => {
                    self.found().vanished.push(relative(&path));
                    continue;
                }
            };
            self.shared.progress.done(file.attributes.size);
            captured.push(Named { directory: listed.position, name, captured: file });
        }
        self.found().files.append(&mut captured);
        Ok(())
    }

    /// A directory that was found to be a mountpoint only when it was opened.
    fn skip_mount(&self, position: usize, path: &[u8]) -> Result<(), ImportError> {
        let mut found = self.found();
        let parent = found.directories[position].parent;
        let Some(stand_in) = found.directories[parent].captured.as_ref().map(mountpoint) else {
            return Err(ImportError::Vanished { path: self.shared.absolute(b"") });
        };
        found.directories[position].captured = Some(stand_in);
        found.skipped_mounts.push(relative(path));
        Ok(())
    }

    /// Keeps what lies under a mount's root as an empty directory, or an empty file. What it
    /// really is cannot be seen, and what is mounted there is not asked.
    fn keep_mountpoint(&self, listed: &Listed, name: Box<[u8]>, mounted: &Attributes, path: &[u8]) {
        let mut found = self.found();
        let directory = listed.position;
        let Some(stand_in) = found.directories[directory].captured.as_ref().map(mountpoint) else { return };
        found.skipped_mounts.push(relative(path));
        let kept = listed.previous.as_ref().and_then(|tree| tree.lookup(&name)).map(|entry| entry.meta.ino);
        let stand_in = Captured { kept: kept.filter(|ino| ino.0 >= FIRST_NEW_INO), ..stand_in };
        if mounted.kind == FileKind::Directory {
            found.directories.push(Directory { parent: directory, name, captured: Some(stand_in) });
        } else {
            let empty = Content::Regular { blob: ObjectKind::Blob.id(b""), size: 0, holes: None };
            let attributes = Attributes { kind: FileKind::Regular, mode: 0o644, ..stand_in.attributes };
            let captured = Captured { attributes, content: Some(empty), ..stand_in };
            found.files.push(Named { directory, name, captured });
        }
    }

    fn path_of(&self, mut position: usize) -> Vec<u8> {
        let found = self.found();
        let mut names = Vec::new();
        while position != 0 {
            let directory = &found.directories[position];
            names.push(&*directory.name);
            position = directory.parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// What stands for a mountpoint: its owner and times are those of the directory it is in, so that
/// importing again gives the same.
fn mountpoint(parent: &Captured) -> Captured {
    // Number 0 is no file's, so it gets a number of its own.
    let attributes = Attributes {
        file: (parent.attributes.file.0, 0),
        mode: 0o755,
        links: 1,
        size: 0,
        ..parent.attributes.clone()
    };
    Captured { attributes, xattrs: Xattrs::new(), kept: None, content: None }
}

pub(super) fn relative(path: &[u8]) -> PathBuf {
    OsString::from_vec(path.to_vec()).into()
}

/// The tree of a directory; nothing for the rest.
pub(super) fn tree_of(entry: &Entry) -> Option<ObjectId> {
    match entry.content {
        Content::Directory { tree, .. } => Some(tree),
        _ => None,
    }
}
