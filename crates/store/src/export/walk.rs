//! Making a directory equal to a tree.

use super::content::{self, Failure};
use super::remove::{self, split_last};
use super::{ExportError, ExportReport, FileReader, Node, Progress, Shape, Source, SourceError, meta};
use crate::attributes::{self, Attributes};
use crate::beneath::{self, join};
use crate::{DIRECTORY_NAME, FileKind, Ino, LayerId, Meta, check_name};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The least time between two calls of the progress function.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// One export.
pub(super) struct Walk<'a> {
    source: &'a dyn Source,
    dest: OwnedFd,
    /// The mount that the destination is on, the only one that is entered.
    mount: u64,
    teller: Teller<'a>,
    report: ExportReport,
    /// Where files with several names were written first.
    linked: HashMap<Ino, Vec<u8>>,
    counted: HashSet<Ino>,
    /// Directories whose attributes are set when all is written.
    finished: Vec<(Vec<u8>, Meta)>,
}

/// Tells how far the export is, not too often. Whoever waits for it takes silence for a standstill, so it is asked
/// to within whatever may take long.
struct Teller<'a> {
    tell: &'a mut dyn FnMut(Progress),
    told: Instant,
}

impl Teller<'_> {
    fn tell(&mut self, report: &ExportReport) {
        self.told = Instant::now();
        (self.tell)(Progress { files: report.files, bytes: report.bytes });
    }

    fn tell_if_due(&mut self, report: &ExportReport) {
        if self.told.elapsed() >= TELL_EVERY {
            self.tell(report);
        }
    }
}

/// A directory of the destination, open, and what it held.
struct Directory {
    path: Vec<u8>,
    fd: OwnedFd,
    existing: BTreeMap<Box<[u8]>, Attributes>,
}

fn destination(path: &[u8], what: &'static str, error: impl Into<io::Error>) -> ExportError {
    ExportError::Destination { path: path_buf(path), what, source: error.into() }
}

fn unreadable(path: &[u8], source: SourceError) -> ExportError {
    ExportError::Source { path: path_buf(path), source }
}

fn path_buf(path: &[u8]) -> PathBuf {
    if path.is_empty() { PathBuf::from(".") } else { OsString::from_vec(path.to_vec()).into() }
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        named: OwnedFd,
        tell: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, ExportError> {
        let failed = |error: Errno| destination(b"", "cannot look at the destination", error);
        // The descriptor may be one that only names the directory; this one can list it.
        let dest = beneath::open_directory(named.as_fd(), b"").map_err(failed)?;
        drop(named);
        let mount = attributes::of_fd(&dest).map_err(failed)?.mount;
        Ok(Self {
            source,
            dest,
            mount,
            teller: Teller { tell, told: Instant::now() },
            report: ExportReport::default(),
            linked: HashMap::new(),
            counted: HashSet::new(),
            finished: Vec::new(),
        })
    }

    pub(super) fn check_empty(&self) -> Result<(), ExportError> {
        let names = beneath::names(&self.dest)
            .map_err(|error| destination(b"", "cannot list the destination", error))?;
        if names.is_empty() { Ok(()) } else { Err(ExportError::NotEmpty) }
    }

    pub(super) fn run(mut self) -> Result<ExportReport, ExportError> {
        let root = self.source.root().map_err(|error| unreadable(b"", error))?;
        let mut waiting = vec![(Vec::new(), root)];
        while let Some((path, node)) = waiting.pop() {
            self.directory(path, &node, &mut waiting)?;
        }
        // Children before parents, for each change of a child changes its parent's time.
        for (path, meta) in std::mem::take(&mut self.finished).into_iter().rev() {
            let fd = beneath::open_directory(self.dest.as_fd(), &path)
                .map_err(|error| destination(&path, "cannot open the directory", error))?;
            self.apply(fd.as_fd(), &path, &meta)?;
            self.teller.tell_if_due(&self.report);
        }
        self.report.skipped.sort_unstable();
        self.teller.tell(&self.report);
        Ok(self.report)
    }

    fn directory(
        &mut self,
        path: Vec<u8>,
        node: &Node,
        waiting: &mut Vec<(Vec<u8>, Node)>,
    ) -> Result<(), ExportError> {
        let children = self.source.children(node).map_err(|error| unreadable(&path, error))?;
        let gone =
            children.is_empty() && !self.source.is_there(node).map_err(|error| unreadable(&path, error))?;
        if gone && !path.is_empty() {
            return self.left_out(&path);
        }
        let mut directory = self.open(&path)?;
        self.clear(&mut directory, &children)?;
        self.finished.push((path, node.meta.clone()));
        for (name, child) in children {
            let below = join(&directory.path, &name);
            // A live tree is not decoded by us, and what is written here must stay here.
            check_name(&name).map_err(|error| unreadable(&below, error.into()))?;
            if !self.make_room(&mut directory, &name, child.shape.kind())? {
                continue;
            }
            if child.shape.kind() == FileKind::Directory {
                make_directory(&directory, &name, &below)?;
                waiting.push((below, child));
                self.report.files += 1;
            } else if self.file(&directory, &name, &below, &child)? {
                self.report.files += 1;
            } else {
                // It is gone from the tree, so what an earlier export left of it goes too.
                self.remove(&mut directory, &name)?;
            }
            self.teller.tell_if_due(&self.report);
        }
        Ok(())
    }

    /// Takes back a directory that went from the tree after it was made.
    fn left_out(&mut self, path: &[u8]) -> Result<(), ExportError> {
        let tick = &mut || self.teller.tell_if_due(&self.report);
        let skipped = remove::directory(self.dest.as_fd(), self.mount, path, tick)
            .map_err(|(path, what, error)| destination(&path, what, error))?;
        self.report.skipped.extend(skipped.iter().map(|path| path_buf(path)));
        self.report.files -= 1;
        Ok(())
    }

    fn open(&mut self, path: &[u8]) -> Result<Directory, ExportError> {
        let fd = beneath::open_directory(self.dest.as_fd(), path)
            .map_err(|error| destination(path, "cannot open the directory", error))?;
        let names =
            beneath::names(&fd).map_err(|error| destination(path, "cannot list the directory", error))?;
        let mut existing = BTreeMap::new();
        for name in names {
            let found = attributes::of_name(fd.as_fd(), &name)
                .map_err(|error| destination(&join(path, &name), "cannot look at it", error))?;
            existing.insert(name, found);
            self.teller.tell_if_due(&self.report);
        }
        Ok(Directory { path: path.to_vec(), fd, existing })
    }

    /// Removes what the tree does not have.
    fn clear(&mut self, directory: &mut Directory, children: &[(Vec<u8>, Node)]) -> Result<(), ExportError> {
        let wanted: HashSet<&[u8]> = children.iter().map(|(name, _)| &name[..]).collect();
        let surplus: Vec<_> =
            directory.existing.keys().filter(|name| !wanted.contains(&***name)).cloned().collect();
        for name in surplus {
            self.remove(directory, &name)?;
            self.teller.tell_if_due(&self.report);
        }
        Ok(())
    }

    /// Whether what stands at `name` may not be touched: named in the report if so.
    fn is_untouchable(&mut self, directory: &Directory, name: &[u8]) -> bool {
        let Some(found) = directory.existing.get(name) else { return false };
        let own = directory.path.is_empty() && name == DIRECTORY_NAME.as_bytes();
        let untouchable = own || found.mount != self.mount;
        if untouchable {
            self.report.skipped.push(path_buf(&join(&directory.path, name)));
        }
        untouchable
    }

    /// Removes what stands at `name`, and tells whether nothing is left of it.
    fn remove(&mut self, directory: &mut Directory, name: &[u8]) -> Result<bool, ExportError> {
        if self.is_untouchable(directory, name) {
            return Ok(false);
        }
        let Some(found) = directory.existing.remove(name) else { return Ok(true) };
        let path = join(&directory.path, name);
        if found.kind != FileKind::Directory {
            rustix::fs::unlinkat(&directory.fd, name, AtFlags::empty())
                .map_err(|error| destination(&path, "cannot remove it", error))?;
            return Ok(true);
        }
        let tick = &mut || self.teller.tell_if_due(&self.report);
        let skipped = remove::directory(self.dest.as_fd(), self.mount, &path, tick)
            .map_err(|(path, what, error)| destination(&path, what, error))?;
        self.report.skipped.extend(skipped.iter().map(|path| path_buf(path)));
        Ok(skipped.is_empty())
    }

    /// Sees to it that something of `kind` can be put at `name`: tells whether it can.
    fn make_room(
        &mut self,
        directory: &mut Directory,
        name: &[u8],
        kind: FileKind,
    ) -> Result<bool, ExportError> {
        let Some(found) = directory.existing.get(name) else { return Ok(true) };
        let replaceable =
            found.kind == kind || (found.kind != FileKind::Directory && kind != FileKind::Directory);
        if replaceable { Ok(!self.is_untouchable(directory, name)) } else { self.remove(directory, name) }
    }

    /// Puts a file at `name`, and tells whether it was still there to be read.
    fn file(
        &mut self,
        directory: &Directory,
        name: &[u8],
        path: &[u8],
        node: &Node,
    ) -> Result<bool, ExportError> {
        if node.meta.nlink > 1
            && let Some(first) = self.linked.get(&node.meta.ino)
        {
            link(self.dest.as_fd(), first, directory, name, path)?;
            return Ok(true);
        }
        if !self.keep(directory, name, path, node)? && !self.write(directory, name, path, node)? {
            return Ok(false);
        }
        if node.meta.nlink > 1 {
            self.linked.insert(node.meta.ino, path.to_vec());
        }
        if self.counted.insert(node.meta.ino)
            && let Shape::Regular { size } = node.shape
        {
            self.report.bytes += size;
        }
        Ok(true)
    }

    /// Leaves what stands at `name` if it has the right content already, and sets its attributes.
    fn keep(
        &mut self,
        directory: &Directory,
        name: &[u8],
        path: &[u8],
        node: &Node,
    ) -> Result<bool, ExportError> {
        let Some(found) = directory.existing.get(name) else { return Ok(false) };
        // Who else has a file with several names is not known, so it is not changed in place.
        if found.kind != node.shape.kind() || found.links > 1 {
            return Ok(false);
        }
        let same = match &node.shape {
            Shape::Regular { size } if *size == found.size => self.is_same(directory, name, path, node)?,
            Shape::Symlink { target } => rustix::fs::readlinkat(&directory.fd, name, Vec::new())
                .is_ok_and(|found| found.as_bytes() == target),
            Shape::Fifo | Shape::Socket => true,
            Shape::CharDevice { rdev } | Shape::BlockDevice { rdev } => *rdev == found.rdev,
            _ => false,
        };
        if same {
            let fd = meta::open(directory.fd.as_fd(), name)
                .map_err(|error| destination(path, "cannot open it", error))?;
            self.apply(fd.as_fd(), path, &node.meta)?;
        }
        Ok(same)
    }

    fn is_same(
        &mut self,
        directory: &Directory,
        name: &[u8],
        path: &[u8],
        node: &Node,
    ) -> Result<bool, ExportError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A file that cannot be read is written anew.
        let Ok(file) = rustix::fs::openat(&directory.fd, name, flags, Mode::empty()) else {
            return Ok(false);
        };
        let Some(reader) = self.reader(path, node)? else { return Ok(false) };
        let tick = &mut || self.teller.tell_if_due(&self.report);
        content::is_same(&*reader, &File::from(file), tick).map_err(|failure| content_error(path, failure))
    }

    fn reader(&self, path: &[u8], node: &Node) -> Result<Option<Box<dyn FileReader>>, ExportError> {
        self.source.open(node).map_err(|error| unreadable(path, error))
    }

    /// Makes the file under a temporary name, whole and with its attributes, then gives it its
    /// own; tells whether it was still there to be read.
    fn write(
        &mut self,
        directory: &Directory,
        name: &[u8],
        path: &[u8],
        node: &Node,
    ) -> Result<bool, ExportError> {
        let temporary = Temporary::new(directory.fd.as_fd())
            .map_err(|error| destination(path, "cannot make a temporary name", error))?;
        if !self.make(&temporary, path, node)? {
            return Ok(false);
        }
        let fd = meta::open(temporary.directory, &temporary.name)
            .map_err(|error| destination(path, "cannot open what was written", error))?;
        self.apply(fd.as_fd(), path, &node.meta)?;
        temporary
            .rename_to(name)
            .map_err(|error| destination(path, "cannot rename what was written into place", error))?;
        Ok(true)
    }

    fn make(&mut self, temporary: &Temporary<'_>, path: &[u8], node: &Node) -> Result<bool, ExportError> {
        let (at, name) = (temporary.directory, &temporary.name[..]);
        let special = |kind, rdev| rustix::fs::mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, rdev);
        let made = match &node.shape {
            Shape::Regular { .. } => {
                let Some(reader) = self.reader(path, node)? else { return Ok(false) };
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|error| destination(path, "cannot make the file", error))?;
                let tick = &mut || self.teller.tell_if_due(&self.report);
                content::copy(&*reader, &File::from(file), tick)
                    .map_err(|failure| content_error(path, failure))?;
                return Ok(true);
            }
            Shape::Symlink { target } => rustix::fs::symlinkat(&target[..], at, name),
            Shape::Fifo => special(FileType::Fifo, 0),
            Shape::Socket => special(FileType::Socket, 0),
            Shape::CharDevice { rdev } => special(FileType::CharacterDevice, *rdev),
            Shape::BlockDevice { rdev } => special(FileType::BlockDevice, *rdev),
            // Directories are made elsewhere.
            Shape::Directory => Err(Errno::ISDIR),
        };
        made.map_err(|error| destination(path, "cannot make it", error))?;
        Ok(true)
    }

    fn apply(&mut self, fd: BorrowedFd<'_>, path: &[u8], meta: &Meta) -> Result<(), ExportError> {
        let lost = meta::apply(fd, meta).map_err(|(what, error)| destination(path, what, error))?;
        if lost.owner {
            self.report.owner_lost.push(path_buf(path));
        }
        if lost.xattrs {
            self.report.xattrs_lost.push(path_buf(path));
        }
        Ok(())
    }
}

fn content_error(path: &[u8], failure: Failure) -> ExportError {
    match failure {
        Failure::Source(error) => unreadable(path, error.into()),
        Failure::Altered(error) => unreadable(path, error.into()),
        Failure::Destination(what, error) => destination(path, what, error),
    }
}

fn make_directory(directory: &Directory, name: &[u8], path: &[u8]) -> Result<(), ExportError> {
    let Some(found) = directory.existing.get(name) else {
        return rustix::fs::mkdirat(&directory.fd, name, Mode::RWXU)
            .map_err(|error| destination(path, "cannot make the directory", error));
    };
    if found.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
        // Its owner may lack permissions in it until its own are set at the end. Where this fails,
        // so does entering it, and says why.
        if let Ok(fd) = beneath::open_directory(directory.fd.as_fd(), name) {
            let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
        }
    }
    Ok(())
}

/// Makes `name` another name of the file at `first`.
fn link(
    dest: BorrowedFd<'_>,
    first: &[u8],
    directory: &Directory,
    name: &[u8],
    path: &[u8],
) -> Result<(), ExportError> {
    let failed = |error: Errno| destination(path, "cannot make the hard link", error);
    let (parent, first_name) = split_last(first);
    let parent = beneath::open_directory(dest, parent).map_err(failed)?;
    let original = attributes::of_name(parent.as_fd(), first_name).map_err(failed)?;
    if directory.existing.get(name).is_some_and(|found| found.file == original.file) {
        return Ok(());
    }
    let temporary = Temporary::new(directory.fd.as_fd()).map_err(failed)?;
    rustix::fs::linkat(&parent, first_name, temporary.directory, &*temporary.name, AtFlags::empty())
        .map_err(failed)?;
    temporary.rename_to(name).map_err(failed)
}

/// A name under which something is made: removed when dropped, unless it was renamed.
struct Temporary<'a> {
    directory: BorrowedFd<'a>,
    name: Vec<u8>,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    fn new(directory: BorrowedFd<'a>) -> Result<Self, Errno> {
        let id = LayerId::random().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Self { directory, name: format!(".selvedge.tmp-{id}").into_bytes(), renamed: false })
    }

    fn rename_to(mut self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::renameat(self.directory, &*self.name, self.directory, name)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed now is removed by the next export that deletes.
            let _ = rustix::fs::unlinkat(self.directory, &*self.name, AtFlags::empty());
        }
    }
}
