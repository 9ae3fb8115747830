//! What is known of the source's files, and the file being read.

use super::{ImportError, Shared};
use crate::attributes::{self, Attributes};
use crate::{Content, Entry, FileKind, Ino, StoreError, Timestamp, WrittenBlob, Xattrs};
use rustix::fs::{Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How often a file that changes while it is read is read before it is named in the report.
const ATTEMPTS: u32 = 3;

/// How much younger than the import that read it a file's last change may look, by the grain of
/// the file system's clock, and still have come after the reading.
const CLOCK_GRAIN: Duration = Duration::from_millis(50);

/// A file as the source had it.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) attributes: Attributes,
    pub(super) xattrs: Xattrs,
    /// The number it had in the previous snapshot, if it is the same file.
    pub(super) kept: Option<Ino>,
    /// Nothing for a directory: its tree is made when all of it is known.
    pub(super) content: Option<Content>,
}

/// What reading a file came to.
pub(super) enum Outcome {
    Captured(Captured),
    /// It is gone.
    Vanished,
    /// It kept changing.
    Changed(Captured),
}

/// Why a file could not be captured.
pub(super) enum Failure {
    System(&'static str, Errno),
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    pub(super) fn at(self, path: std::path::PathBuf) -> ImportError {
        match self {
            Self::System(what, error) => ImportError::Unreadable { path, what, source: error.into() },
            Self::Store(error) => error.into(),
        }
    }
}

/// Captures `name`, which is no directory and on no other mount.
pub(super) fn file(
    shared: &Shared<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    found: Attributes,
    previous: Option<Entry>,
    buffer: &mut [u8],
) -> Result<Outcome, Failure> {
    let kept = previous.as_ref().and_then(|entry| same_file(entry, &found));
    if let Some(entry) = previous
        && found.kind == FileKind::Regular
        && is_unchanged(&entry, &found, shared.unchanged_before)
    {
        let Entry { meta, content } = entry;
        return Ok(Outcome::Captured(Captured {
            attributes: found,
            xattrs: meta.xattrs,
            kept,
            content: Some(content),
        }));
    }
    let captured = match found.kind {
        FileKind::Regular => return regular(shared, directory, name, kept, buffer),
        FileKind::Symlink => symlink(directory, name, found),
        _ => special(directory, name, found),
    };
    match captured {
        Ok(captured) => Ok(Outcome::Captured(Captured { kept, ..captured })),
        Err(Failure::System(_, Errno::NOENT)) => Ok(Outcome::Vanished),
        Err(failure) => Err(failure),
    }
}

/// The number to keep, if the previous snapshot's entry of the same path is the same file as far
/// as can be told.
pub(super) fn same_file(entry: &Entry, found: &Attributes) -> Option<Ino> {
    let made_here = entry.meta.ino.0 >= crate::FIRST_NEW_INO;
    let same = if made_here {
        // The source's number is not known then.
        found.kind == FileKind::Directory
            || (entry.meta.mtime == found.mtime && entry.meta.ctime == found.ctime)
    } else {
        entry.meta.ino.0 == found.file.1
    };
    (same && entry.kind() == found.kind).then_some(entry.meta.ino)
}

fn is_unchanged(entry: &Entry, found: &Attributes, before: Timestamp) -> bool {
    entry.kind() == found.kind
        && entry.size() == found.size
        && entry.meta.mtime == found.mtime
        && entry.meta.ctime == found.ctime
        && (entry.meta.ino.0 == found.file.1 || entry.meta.ino.0 >= crate::FIRST_NEW_INO)
        && found.ctime < before
}

/// The time before which a file's last change must lie for its timestamps to prove that it is as
/// an import begun at `start` read it.
pub(super) fn unchanged_before(start: Timestamp) -> Timestamp {
    let grain = CLOCK_GRAIN.subsec_nanos();
    match start.nsec.checked_sub(grain) {
        Some(nsec) => Timestamp { sec: start.sec, nsec },
        None => Timestamp { sec: start.sec - 1, nsec: start.nsec + Timestamp::NSEC_PER_SEC - grain },
    }
}

fn symlink(directory: BorrowedFd<'_>, name: &[u8], attributes: Attributes) -> Result<Captured, Failure> {
    let target = rustix::fs::readlinkat(directory, name, Vec::new())
        .map_err(|error| Failure::System("cannot read the symbolic link", error))?;
    let content = Content::Symlink { target: target.into_bytes() };
    with_xattrs(directory, name, attributes, content)
}

fn special(directory: BorrowedFd<'_>, name: &[u8], attributes: Attributes) -> Result<Captured, Failure> {
    let rdev = attributes.rdev;
    let content = match attributes.kind {
        FileKind::Fifo => Content::Fifo,
        FileKind::Socket => Content::Socket,
        FileKind::BlockDevice => Content::BlockDevice { rdev },
        // Directories, regular files and symlinks are captured elsewhere.
        _ => Content::CharDevice { rdev },
    };
    with_xattrs(directory, name, attributes, content)
}

fn with_xattrs(
    directory: BorrowedFd<'_>,
    name: &[u8],
    attributes: Attributes,
    content: Content,
) -> Result<Captured, Failure> {
    let xattrs = attributes::xattrs_of_name(directory, name).map_err(unreadable_xattrs)?;
    Ok(Captured { attributes, xattrs, kept: None, content: Some(content) })
}

pub(super) fn unreadable_xattrs(error: Errno) -> Failure {
    Failure::System("cannot read the extended attributes", error)
}

fn regular(
    shared: &Shared<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    kept: Option<Ino>,
    buffer: &mut [u8],
) -> Result<Outcome, Failure> {
    // Should it be a pipe by now, opening must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = crate::beneath::RESOLVE | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        // Gone, or something else by now.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::XDEV) => return Ok(Outcome::Vanished),
        Err(error) => return Err(Failure::System("cannot open the file", error)),
    };
    let stat = || attributes::of_fd(&file).map_err(|error| Failure::System("cannot look at the file", error));
    let mut before = stat()?;
    if before.kind != FileKind::Regular {
        return Ok(Outcome::Vanished);
    }
    let (mut attempt, mut made_new) = (0, Vec::new());
    loop {
        attempt += 1;
        let xattrs = attributes::xattrs_of_fd(file.as_fd()).map_err(unreadable_xattrs)?;
        let written = content(shared, &file, before.size, buffer)?;
        made_new.extend(written.new.then_some(written.id));
        let after = stat()?;
        let steady = after.size == before.size
            && after.mtime == before.mtime
            && after.ctime == before.ctime
            && written.size == before.size;
        if (steady || attempt == ATTEMPTS) && made_new.contains(&written.id) {
            shared.count_new(written.id, written.size);
        }
        let content = Content::Regular { blob: written.id, size: written.size, holes: written.holes };
        let captured = Captured { attributes: before, xattrs, kept, content: Some(content) };
        if steady {
            return Ok(Outcome::Captured(captured));
        }
        if attempt == ATTEMPTS {
            return Ok(Outcome::Changed(captured));
        }
        before = after;
    }
}

/// Reads, hashes and keeps what the file has up to `size`, holes as holes.
fn content(shared: &Shared<'_>, file: &File, size: u64, buffer: &mut [u8]) -> Result<WrittenBlob, Failure> {
    let mut writer = shared.store.blob_writer();
    let mut at = 0;
    while at < size {
        let data = seek(file, SeekFrom::Data(at), size)?;
        writer.hole(data - at)?;
        let end = seek(file, SeekFrom::Hole(data), size)?;
        at = data;
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = read_at(file, &mut buffer[..piece], at)?;
            if read == 0 {
                // It shrank; the caller sees that by its size.
                return Ok(writer.finish()?);
            }
            writer.write(&buffer[..read])?;
            at += read as u64;
        }
    }
    Ok(writer.finish()?)
}

/// The next data or hole, at most `size`.
fn seek(file: &File, to: SeekFrom, size: u64) -> Result<u64, Failure> {
    match rustix::fs::seek(file, to) {
        Ok(at) => Ok(at.min(size)),
        // Nothing but a hole follows, or nothing at all any more.
        Err(Errno::NXIO) => Ok(size),
        // A file system that knows no holes.
        Err(Errno::INVAL) => Ok(if let SeekFrom::Data(at) = to { at } else { size }),
        Err(error) => Err(Failure::System("cannot find the file's holes", error)),
    }
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<usize, Failure> {
    loop {
        match file.read_at(buffer, at) {
            Ok(read) => return Ok(read),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(Failure::System("cannot read the file", errno));
            }
        }
    }
}
