//! A working file that has only the changed parts of a large file: the rest stays where it is, in the store.

use crate::attr::Allocate;
use crate::coverage::Coverage;
use crate::crash;
use crate::error::{Result, ViewError};
use foldhash::HashSet;
use rustix::fs::FallocateFlags;
use selvedge_store::{BlobReader, Extent, Ino};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Bytes moved at once.
const COPY_BLOCK: usize = 128 * 1024;

const READ_COVERAGE: &str = "read which parts of a file are its own";

/// Which files are patched when they are changed, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patching {
    /// Files of at least so many bytes: smaller ones are copied faster than they are put together at every read.
    pub from: u64,
    /// Bytes that become the file's own at once, at least: a power of two.
    pub block: u64,
    /// What a request for a file costs, in bytes that are copied in the time that it takes.
    pub request: u64,
}

impl Default for Patching {
    /// A copy of 16 MiB takes about 10 ms; a block of 64 KiB one disk access.
    fn default() -> Self {
        Self { from: 16 << 20, block: 64 << 10, request: 8 << 10 }
    }
}

/// Patched files that changed since the catalog took note of which parts of them are durable.
#[derive(Debug, Default)]
pub(crate) struct PatchedFiles(Mutex<HashSet<Ino>>);

impl PatchedFiles {
    /// The file has, or may have, parts of its own that the catalog does not know of.
    pub(crate) fn changed(&self, ino: Ino) {
        self.inner().insert(ino);
    }

    /// The catalog is going to be told of what the file has from now on, at least.
    pub(crate) fn take(&self, ino: Ino) {
        self.inner().remove(&ino);
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Ino> {
        self.inner().iter().copied().collect()
    }

    /// All files have gone to a layer of their own.
    pub(crate) fn forget_all(&self) {
        self.inner().clear();
    }

    fn inner(&self) -> MutexGuard<'_, HashSet<Ino>> {
        // Whole at any point.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A patched file: a sparse file of the right length, and the blob that has what it lacks.
///
/// A block becomes the file's own when all of it is there, in one step: until then the blob's counts, whatever a writer
/// that died has left in its place. The blob's bytes never count beyond the file's end, and once cut off they stay so.
#[derive(Debug)]
pub(crate) struct Patched {
    file: File,
    under: BlobReader,
    /// Replaced as a whole.
    coverage: RwLock<Arc<Coverage>>,
    /// Held by whoever makes blocks the file's own. Writes to blocks that are do not wait for it.
    claiming: Mutex<()>,
    /// What was changed since somebody began to watch.
    watched: Mutex<Option<Vec<Range<u64>>>>,
}

/// Changed parts that are told apart: where there are more, everything before the last counts as changed.
const MOST_RANGES: usize = 1 << 14;

/// Learns what is changed in a patched file, until it is dropped. There is one at a time.
#[derive(Debug)]
pub(crate) struct Watch<'a>(&'a Patched);

impl Watch<'_> {
    /// What was changed since it was asked for last, in order: perhaps more than that. A change is told of when it was made.
    pub(crate) fn take(&self) -> Vec<Range<u64>> {
        joined_ranges(self.0.watched().replace(Vec::new()).unwrap_or_default())
    }

    /// Whether nothing was changed since.
    pub(crate) fn saw_nothing(&self) -> bool {
        self.0.watched().as_ref().is_some_and(Vec::is_empty)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.watched() = None;
    }
}

impl Patched {
    /// Makes an empty file one of `size` bytes, all of them those of `under`, and keeps what it has of its own;
    /// `None` where the disk keeps no such attribute.
    pub(crate) fn begin(file: &File, coverage: &Coverage, size: u64) -> Result<bool> {
        file.set_len(size).map_err(ViewError::host("extend a working file"))?;
        match coverage.write(file) {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::debug!("a working file takes no attribute, so it is copied as a whole: {error}");
                Ok(false)
            }
        }
    }

    /// The file `ino` that `file` is, over `under`, to be changed if `write`.
    pub(crate) fn open(ino: Ino, file: File, under: BlobReader, write: bool) -> Result<Self> {
        let read = Coverage::read(&file).map_err(ViewError::host(READ_COVERAGE))?;
        let mut coverage = read.ok_or_else(|| ViewError::Damaged {
            ino,
            why: "its working file does not say which parts it has".to_owned(),
        })?;
        let size = size_of(&file).map_err(ViewError::host("stat a working file"))?;
        if size < coverage.limit() {
            // Whoever cut the file short died before it could say so. It must be said before the file grows again.
            coverage.shorten(size);
            if write {
                coverage.write(&file).map_err(ViewError::host("note which parts of a file are its own"))?;
            }
        }
        let coverage = RwLock::new(Arc::new(coverage));
        Ok(Self { file, under, coverage, claiming: Mutex::new(()), watched: Mutex::default() })
    }

    /// Looks again which parts are the file's own: others may have changed it by another value of this type until now.
    pub(crate) fn look_again(&self) -> Result<()> {
        let _claiming = self.claim_lock();
        let read = Coverage::read(&self.file).map_err(ViewError::host(READ_COVERAGE))?;
        if let Some(coverage) = read {
            self.replace(coverage);
        }
        Ok(())
    }

    /// Learns what is changed from now on.
    pub(crate) fn watch(&self) -> Watch<'_> {
        *self.watched() = Some(Vec::new());
        Watch(self)
    }

    /// The file that has the parts of its own.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn coverage(&self) -> Arc<Coverage> {
        Arc::clone(&self.coverage.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads at `offset` as pread(2) does, possibly less than asked for.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let coverage = self.coverage();
        let end = offset.saturating_add(buffer.len() as u64).min(size_of(&self.file)?);
        if offset >= end {
            return Ok(0);
        }
        let (end, own) = coverage.run(offset, end);
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..length];
        if own { self.file.read_at(buffer, offset) } else { self.under.read_at(buffer, offset) }
    }

    /// Writes as much as the disk takes. An error counts only if nothing was written.
    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let range = offset..offset.saturating_add(data.len() as u64);
        let written = self.write_range(data, &range);
        self.tell(range);
        written
    }

    fn write_range(&self, data: &[u8], range: &Range<u64>) -> io::Result<usize> {
        let offset = range.start;
        if self.coverage().has_all(range) {
            return write_some(&self.file, data, offset);
        }
        let _claiming = self.claim_lock();
        let coverage = self.coverage();
        self.fill_edges(&coverage, range)?;
        let written = write_some(&self.file, data, offset)?;
        let mut end = offset + written as u64;
        if written < data.len() && !coverage.has(end) {
            // A block that is there in part only cannot count.
            end = coverage.floor(end);
            if end <= offset {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
        }
        self.claim(&coverage, &(offset..end))?;
        Ok(usize::try_from(end - offset).unwrap_or(written).min(written))
    }

    /// Sets the length.
    pub(crate) fn set_len(&self, size: u64) -> io::Result<()> {
        let set = self.cut_or_grow(size);
        // What was cut off is zeros when it comes back.
        self.tell(size..u64::MAX);
        set
    }

    fn cut_or_grow(&self, size: u64) -> io::Result<()> {
        let _claiming = self.claim_lock();
        self.file.set_len(size)?;
        let mut coverage = (*self.coverage()).clone();
        if size < coverage.limit() {
            coverage.shorten(size);
            crash::point("patch.before-shorten");
            let kept = coverage.write(&self.file);
            self.replace(coverage);
            kept?;
        }
        Ok(())
    }

    /// Gives a range room, takes its room away, or makes it zeros.
    pub(crate) fn allocate(&self, how: Allocate, offset: u64, len: u64) -> rustix::io::Result<()> {
        let range = offset..offset.saturating_add(len);
        let allocated = match how {
            // Room says nothing of what is in it.
            Allocate::Reserve | Allocate::ReserveKeepingSize => allocate(&self.file, how, offset, len),
            Allocate::PunchHole | Allocate::Zero | Allocate::ZeroKeepingSize => self.clear(how, &range),
        };
        self.tell(range);
        allocated
    }

    fn clear(&self, how: Allocate, range: &Range<u64>) -> rustix::io::Result<()> {
        let _claiming = self.claim_lock();
        let coverage = self.coverage();
        self.fill_edges(&coverage, range).map_err(|error| errno(&error))?;
        allocate(&self.file, how, range.start, range.end - range.start)?;
        self.claim(&coverage, range).map_err(|error| errno(&error))
    }

    /// Where there is data among the first `size` bytes, if `under` is where the blob has some.
    pub(crate) fn data(&self, size: u64, under: &[Extent]) -> io::Result<Vec<Extent>> {
        let coverage = self.coverage();
        let own = data_extents(&self.file, size)?;
        let mut data = Vec::new();
        let mut at = 0;
        while at < size {
            let (end, is_own) = coverage.run(at, size);
            let extents = if is_own { &own[..] } else { under };
            for extent in &extents[extents.partition_point(|extent| extent.end() <= at)..] {
                if extent.offset >= end {
                    break;
                }
                let start = extent.offset.max(at);
                data.push(Extent { offset: start, len: extent.end().min(end) - start });
            }
            at = end;
        }
        Ok(joined(data))
    }

    /// Copies the parts of its own to `to`, which then has the same ones.
    pub(crate) fn copy_own(&self, to: &File, size: u64) -> Result<Coverage> {
        let coverage = (*self.coverage()).clone();
        for extent in data_extents(&self.file, size).map_err(ViewError::host("find a working file's data"))? {
            let mut at = extent.offset;
            while at < extent.end() {
                let (end, own) = coverage.run(at, extent.end());
                if own {
                    copy(|buffer, at| self.file.read_at(buffer, at), to, at..end)
                        .map_err(ViewError::host("copy-up"))?;
                }
                at = end;
            }
        }
        Ok(coverage)
    }

    /// Copies what a block at either end of `range` has beside it from the blob, so that the block can become the file's
    /// own when the range is there.
    fn fill_edges(&self, coverage: &Coverage, range: &Range<u64>) -> io::Result<()> {
        let before = coverage.floor(range.start)..range.start.min(coverage.limit());
        if !coverage.has(range.start) && !before.is_empty() {
            self.fill(before)?;
        }
        let behind = range.end..coverage.ceil(range.end).min(coverage.limit());
        if !behind.is_empty() && !coverage.has(range.end) {
            self.fill(behind)?;
        }
        Ok(())
    }

    fn fill(&self, range: Range<u64>) -> io::Result<()> {
        copy(|buffer, at| self.under.read_at(buffer, at), &self.file, range)
    }

    /// Makes the blocks of `range` the file's own, now that they are there.
    fn claim(&self, coverage: &Coverage, range: &Range<u64>) -> io::Result<()> {
        let mut coverage = coverage.clone();
        coverage.claim(range);
        crash::point("patch.before-claim");
        coverage.write(&self.file)?;
        crash::point("patch.after-claim");
        self.replace(coverage);
        Ok(())
    }

    /// Tells whoever watches what was changed, or may have been.
    fn tell(&self, range: Range<u64>) {
        if let Some(changed) = &mut *self.watched() {
            changed.push(range);
            if changed.len() >= MOST_RANGES {
                *changed = joined_ranges(std::mem::take(changed));
                if changed.len() >= MOST_RANGES / 2 {
                    let all = 0..changed.last().map_or(0, |last| last.end);
                    *changed = vec![all];
                }
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, Option<Vec<Range<u64>>>> {
        // Whole at any point.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, coverage: Coverage) {
        *self.coverage.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(coverage);
    }

    fn claim_lock(&self) -> MutexGuard<'_, ()> {
        // Guards nothing that a panic could leave half changed.
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes as much as the disk takes. An error counts only if nothing was written: else it comes again.
pub(crate) fn write_some(to: &File, data: &[u8], offset: u64) -> io::Result<usize> {
    let mut written = 0;
    while written < data.len() {
        match to.write_at(&data[written..], offset + written as u64) {
            Ok(0) => break,
            Ok(some) => written += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if written == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(written)
}

/// fallocate(2).
pub(crate) fn allocate(host: &File, how: Allocate, offset: u64, len: u64) -> rustix::io::Result<()> {
    let flags = match how {
        Allocate::Reserve => FallocateFlags::empty(),
        Allocate::ReserveKeepingSize => FallocateFlags::KEEP_SIZE,
        Allocate::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Allocate::Zero => FallocateFlags::ZERO_RANGE,
        Allocate::ZeroKeepingSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    };
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(host, flags, offset, len))
}

/// Where the first `size` bytes of a host file have data.
pub(crate) fn data_extents(file: &File, size: u64) -> io::Result<Vec<Extent>> {
    use rustix::fs::{SeekFrom, seek};
    let mut data = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end,
            // Whoever writes the file past us has made it shorter in between.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        data.push(Extent { offset: start, len: end.min(size).saturating_sub(start) });
        at = end;
    }
    Ok(data)
}

/// Copies a range, byte by byte where `from` has it and `to` is to.
pub(crate) fn copy(
    from: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    to: &File,
    Range { start, end }: Range<u64>,
) -> io::Result<()> {
    let mut block = vec![0; usize::try_from(end - start).unwrap_or(COPY_BLOCK).min(COPY_BLOCK)];
    let mut at = start;
    while at < end {
        let want = block.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        match from(&mut block[..want], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                to.write_all_at(&block[..read], at)?;
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Extents that touch, as one.
fn joined(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents.into_iter().filter(|extent| extent.len > 0) {
        match joined.last_mut() {
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ => joined.push(extent),
        }
    }
    joined
}

/// Ranges that touch or overlap, as one, in order.
fn joined_ranges(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

fn size_of(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

fn errno(error: &io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SIZE: u64 = 64 << 10;

    /// A file of which nothing is its own, as any number of values.
    fn patched() -> (tempfile::NamedTempFile, impl Fn(&tempfile::NamedTempFile) -> Patched) {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Patched::begin(file.as_file(), &Coverage::none(SIZE, 4096), SIZE).unwrap());
        let under = || BlobReader::Inline(vec![1; 64 << 10].into());
        (file, move |file| Patched::open(Ino(1), file.reopen().unwrap(), under(), true).unwrap())
    }

    #[test]
    fn who_looks_again_keeps_what_another_value_has_made_the_files_own() {
        let (file, open) = patched();
        let (one, other) = (open(&file), open(&file));
        one.write_at(&[2; 10], 0).unwrap();
        other.look_again().unwrap();
        other.write_at(&[3; 10], 8192).unwrap();
        for (at, expected) in [(0, 2), (8192, 3), (4096, 1)] {
            let mut found = [0; 10];
            open(&file).read_at(&mut found, at).unwrap();
            assert_eq!(found, [expected; 10], "at {at}");
        }
    }

    #[test]
    fn who_watches_learns_of_every_change_however_many_there_are() {
        let (file, open) = patched();
        let patched = open(&file);
        let watch = patched.watch();
        assert!(watch.saw_nothing());
        for changes in [3, 3 * MOST_RANGES as u64] {
            (0..changes).rev().for_each(|at| patched.tell(2 * at..2 * at + 1));
            assert!(!watch.saw_nothing());
            let told = watch.take();
            assert!(told.len() <= MOST_RANGES, "{}", told.len());
            assert!((0..changes).all(|at| told.iter().any(|range| range.contains(&(2 * at)))));
            assert!(watch.saw_nothing());
        }
        patched.write_at(&[2], 5000).unwrap();
        patched.set_len(9000).unwrap();
        patched.allocate(Allocate::PunchHole, 100, 10).unwrap();
        assert_eq!(watch.take(), [100..110, 5000..5001, 9000..u64::MAX]);
        drop(watch);
        assert!(patched.watched().is_none());
    }

    #[test]
    fn a_file_that_gets_shorter_while_it_is_looked_at_is_no_failure() {
        let file = tempfile::tempfile().unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    file.write_all_at(b"x", 0).unwrap();
                    file.set_len(0).unwrap();
                }
            });
            let failed = (0..20_000).find_map(|_| data_extents(&file, 4096).err());
            ended.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }
}
