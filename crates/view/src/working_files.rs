//! A layer's working files: the bytes of regular files that changed, one host file each, named by number.

use crate::coverage::Coverage;
use crate::error::{Result, ViewError};
use crate::patched::{copy, data_extents};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use selvedge_store::{Ino, Timestamp};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What the host says of a working file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostStat {
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

/// The directory `files/` of one layer, and `tmp/` beside it where files are made whole first.
#[derive(Debug)]
pub(crate) struct WorkingFiles {
    files: OwnedFd,
    tmp: OwnedFd,
    /// Of a frozen layer, what stands for files of `files/` that went on being written: the copies that were made of
    /// them when the layer was frozen.
    copies: Option<OwnedFd>,
    next_tmp: AtomicU64,
    /// Counts the changes of names in `files/`, each after it was made.
    changes: AtomicU64,
    /// How many of them are durable. Held while they are synced, so that whoever waits for it knows.
    durable: Mutex<u64>,
}

/// A file in `tmp/` that has no number yet; removed when dropped.
#[derive(Debug)]
pub(crate) struct TempFile<'a> {
    files: &'a WorkingFiles,
    name: String,
    file: Option<File>,
}

impl WorkingFiles {
    /// Makes the directories of a new layer beneath `layer_dir`.
    pub(crate) fn create(layer_dir: &Path) -> Result<Self> {
        for name in ["files", "tmp"] {
            rustix::fs::mkdir(layer_dir.join(name), Mode::from_raw_mode(0o700))
                .map_err(ViewError::host("mkdir in the layer"))?;
        }
        Self::open(layer_dir)
    }

    /// Opens the directories of a layer that is written.
    pub(crate) fn open(layer_dir: &Path) -> Result<Self> {
        Self::open_with_copies(layer_dir, None)
    }

    /// Opens the directories of a frozen layer.
    pub(crate) fn open_frozen(layer_dir: &Path) -> Result<Self> {
        match open_directory(layer_dir, COPIES) {
            Ok(copies) => Self::open_with_copies(layer_dir, Some(copies)),
            Err(Errno::NOENT) => Self::open(layer_dir),
            Err(error) => Err(ViewError::host("open the layer's copies")(error)),
        }
    }

    fn open_with_copies(layer_dir: &Path, copies: Option<OwnedFd>) -> Result<Self> {
        let open =
            |name| open_directory(layer_dir, name).map_err(ViewError::host("open the layer's directory"));
        Ok(Self {
            files: open("files")?,
            tmp: open("tmp")?,
            copies,
            next_tmp: AtomicU64::new(0),
            changes: AtomicU64::new(1),
            durable: Mutex::new(0),
        })
    }

    /// Removes what a process that died left in `tmp/`.
    pub(crate) fn clear_tmp(&self) -> Result<()> {
        let listing = rustix::fs::Dir::read_from(&self.tmp).map_err(ViewError::host("list tmp/"))?;
        for entry in listing {
            let entry = entry.map_err(ViewError::host("list tmp/"))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                rustix::fs::unlinkat(&self.tmp, name, AtFlags::empty())
                    .map_err(ViewError::host("remove a temporary file"))?;
            }
        }
        Ok(())
    }

    /// The file of `ino`, `None` when there is none: then it is empty.
    pub(crate) fn open_file(&self, ino: Ino, write: bool) -> Result<Option<File>> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        self.open_with(ino, access)
    }

    /// The file of `ino`, for a node whose bytes are not all in it: one that is not there is damage.
    pub(crate) fn open_patched(&self, ino: Ino, write: bool) -> Result<File> {
        let missing = || ViewError::Damaged { ino, why: "its working file is missing".to_owned() };
        self.open_file(ino, write)?.ok_or_else(missing)
    }

    /// The file of `ino`, made if there is none.
    pub(crate) fn make_file(&self, ino: Ino) -> Result<File> {
        let file = self.open_with(ino, OFlags::RDWR | OFlags::CREATE)?;
        self.changes.fetch_add(1, Ordering::AcqRel);
        file.ok_or_else(|| ViewError::Damaged { ino, why: "its working file vanished".to_owned() })
    }

    /// A number that is another one after each change of names in `files/`.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn open_with(&self, ino: Ino, flags: OFlags) -> Result<Option<File>> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if let Some(copies) = &self.copies {
            match rustix::fs::openat(copies, file_name(ino), flags, Mode::empty()) {
                Err(Errno::NOENT) => {}
                found => return found.map(|fd| Some(fd.into())).map_err(ViewError::host("open a copy")),
            }
        }
        match rustix::fs::openat(&self.files, file_name(ino), flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(ViewError::host("open a working file")(error)),
        }
    }

    /// A new, empty file without a number.
    pub(crate) fn temp_file(&self) -> Result<TempFile<'_>> {
        let name = format!("{:x}", self.next_tmp.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.tmp, &*name, flags, Mode::from_raw_mode(0o600))
            .map_err(ViewError::host("make a temporary file"))?;
        Ok(TempFile { files: self, name, file: Some(File::from(fd)) })
    }

    pub(crate) fn stat(&self, ino: Ino) -> Result<Option<HostStat>> {
        if let Some(copies) = &self.copies {
            match rustix::fs::statat(copies, file_name(ino), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                found => {
                    return found.map(|stat| Some(host_stat(&stat))).map_err(ViewError::host("stat a copy"));
                }
            }
        }
        self.stat_original(ino)
    }

    /// As [`stat`](Self::stat), of the file in `files/` whatever stands for it.
    pub(crate) fn stat_original(&self, ino: Ino) -> Result<Option<HostStat>> {
        match rustix::fs::statat(&self.files, file_name(ino), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(host_stat(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(ViewError::host("stat a working file")(error)),
        }
    }

    /// Sets the modification time of the file of `ino`, if there is one.
    pub(crate) fn set_mtime(&self, ino: Ino, mtime: Timestamp) -> Result<()> {
        match rustix::fs::utimensat(&self.files, file_name(ino), &times(mtime), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(ViewError::host("set a working file's time")(error)),
        }
    }

    /// Gives the file that `ino` has in another layer, if it has any, a name here, too.
    pub(crate) fn link_from(&self, other: &Self, ino: Ino) -> Result<()> {
        let name = file_name(ino);
        match rustix::fs::linkat(&other.files, &name, &self.files, &name, AtFlags::empty()) {
            Ok(()) => {
                self.changes.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(ViewError::host("link a working file")(error)),
        }
    }

    /// Copies the file that `ino` has in another layer, if it has any.
    pub(crate) fn copy_from(&self, other: &Self, ino: Ino) -> Result<()> {
        let Some(mut from) = other.open_file(ino, false)? else { return Ok(()) };
        let temp = self.temp_file()?;
        match Coverage::read(&from).map_err(ViewError::host("read which parts of a file are its own"))? {
            Some(coverage) => copy_sparse(&from, temp.file()?, &coverage),
            None => std::io::copy(&mut from, &mut temp.file()?).map(drop),
        }
        .map_err(ViewError::host("copy a working file"))?;
        temp.adopt(ino, stat_open(&from)?.mtime).map(drop)
    }

    /// Makes an empty file that is to stand for the one of `ino` when the layer in `layer_dir` is frozen.
    pub(crate) fn make_copy(layer_dir: &Path, ino: Ino) -> Result<File> {
        match rustix::fs::mkdir(layer_dir.join(COPIES), Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(ViewError::host("mkdir in the layer")(error)),
        }
        let copies = open_directory(layer_dir, COPIES).map_err(ViewError::host("open the layer's copies"))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&copies, file_name(ino), flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(ViewError::host("make a copy"))
    }

    /// Removes what was made to stand for the file of `ino`.
    pub(crate) fn discard_copy(layer_dir: &Path, ino: Ino) -> Result<()> {
        match std::fs::remove_file(layer_dir.join(COPIES).join(file_name(ino))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ViewError::host("remove a copy")(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what was made to stand for files of the layer in `layer_dir`: it has not been frozen.
    pub(crate) fn discard_copies(layer_dir: &Path) -> Result<()> {
        match std::fs::remove_dir_all(layer_dir.join(COPIES)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ViewError::host("remove copies")(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the file of `ino`, if there is one.
    pub(crate) fn remove(&self, ino: Ino) -> Result<()> {
        match rustix::fs::unlinkat(&self.files, file_name(ino), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(ViewError::host("remove a working file")(error)),
        }
    }

    /// Makes the names in `files/` durable, if they changed.
    pub(crate) fn sync_names(&self) -> Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.changes.load(Ordering::Acquire);
        if *durable < made {
            rustix::fs::fsync(&self.files).map_err(ViewError::host("fsync of the layer's files"))?;
            *durable = made;
        }
        Ok(())
    }

    /// Makes every file of the disk that holds the layer durable.
    pub(crate) fn sync_disk(&self) -> Result<()> {
        rustix::fs::syncfs(&self.files).map_err(ViewError::host("syncfs of the layer's disk"))
    }
}

impl TempFile<'_> {
    pub(crate) fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or(ViewError::BadHandle)
    }

    /// Gives the file the number `ino`, in place of whatever had it, with this modification time.
    pub(crate) fn adopt(mut self, ino: Ino, mtime: Timestamp) -> Result<File> {
        let file = self.file.take().ok_or(ViewError::BadHandle)?;
        rustix::fs::futimens(&file, &times(mtime)).map_err(ViewError::host("set a working file's time"))?;
        let renamed = rustix::fs::renameat_with(
            &self.files.tmp,
            &*self.name,
            &self.files.files,
            file_name(ino),
            RenameFlags::empty(),
        );
        if let Err(error) = renamed {
            self.file = Some(file);
            return Err(ViewError::host("rename a working file into place")(error));
        }
        self.files.changes.fetch_add(1, Ordering::AcqRel);
        Ok(file)
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Left behind it is only space: the next opening of the layer removes it.
            let _ = rustix::fs::unlinkat(&self.files.tmp, &*self.name, AtFlags::empty());
        }
    }
}

/// Copies a patched file's data and coverage.
fn copy_sparse(from: &File, to: &File, coverage: &Coverage) -> std::io::Result<()> {
    let size = from.metadata()?.len();
    to.set_len(size)?;
    coverage.write(to)?;
    for extent in data_extents(from, size)? {
        copy(|buffer, at| from.read_at(buffer, at), to, extent.offset..extent.end())?;
    }
    Ok(())
}

/// The directory of [`WorkingFiles::copies`].
const COPIES: &str = "copies";

fn open_directory(layer_dir: &Path, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(layer_dir.join(name), flags, Mode::empty())
}

/// What the host says of an open working file.
pub(crate) fn stat_open(file: &File) -> Result<HostStat> {
    rustix::fs::fstat(file).map(|stat| host_stat(&stat)).map_err(ViewError::host("stat a working file"))
}

fn host_stat(stat: &rustix::fs::Stat) -> HostStat {
    let time = |sec: i64, nsec: u64| Timestamp { sec, nsec: u32::try_from(nsec).unwrap_or(0) };
    HostStat {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// Gives an open working file a modification time.
pub(crate) fn set_open_mtime(file: &File, mtime: Timestamp) -> Result<()> {
    rustix::fs::futimens(file, &times(mtime)).map_err(ViewError::host("set a working file's time"))
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.sec, tv_nsec: i64::from(mtime.nsec) },
    }
}

fn file_name(ino: Ino) -> String {
    format!("{:x}", ino.0)
}
