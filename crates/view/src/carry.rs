//! Files that go on in the next upper while their layer is frozen, because somebody reads or writes them past the view.
//!
//! Whoever has such a file open or mapped has the host's file, which cannot be exchanged. So that file moves on, and
//! the frozen layer gets a copy: where the disk can share blocks, of one instant; else made in passes until one finds
//! nothing that differs, which is as good unless somebody writes all the time.

use crate::commit::{Commit, Effect};
use crate::dir_stream::DOT_DOT;
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode};
use crate::layers::Upper;
use crate::open_table::Content;
use crate::patched::data_extents;
use crate::state::State;
use crate::tables::Tables;
use crate::working_files::{HostStat, WorkingFiles, set_open_mtime, stat_open};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use selvedge_store::{Extent, Ino};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes compared at once.
const BLOCK: usize = 256 * 1024;

/// Passes over a file that is being written, before nobody is kept waiting.
const PASSES: usize = 4;

/// What is copied of a file that changed again while everybody waits: more takes too long.
const LAST_PASS_MAX: u64 = 64 << 20;

/// Copies for the files that somebody reads or writes past the view, made while everything goes on. Whoever opens a frozen
/// layer takes what it finds of them for the files, so whatever is left of others is removed before a layer is frozen.
#[derive(Debug)]
pub(crate) struct Copies {
    upper: std::sync::Arc<Upper>,
    directory: PathBuf,
    made: Vec<Copy>,
}

/// One such file and its copy.
#[derive(Debug)]
struct Copy {
    ino: Ino,
    source: File,
    /// The copy itself.
    file: File,
    /// The disk shares blocks.
    cloned: bool,
    /// What the host said of the file before the pass that found nothing to change.
    agreed: Option<HostStat>,
}

/// What a copy is of.
struct Taken {
    ino: Ino,
    stat: HostStat,
    /// It may be of no instant: the file was written faster than it could be copied.
    torn: bool,
}

impl State {
    /// Makes copies of the files in the upper that are passed through. Others that are, by the time everybody waits, are
    /// copied then.
    pub(crate) fn copy_passed(&self) -> Result<Option<Copies>> {
        let passed = self.passed_inos();
        let Some(upper) = self.layers().upper.clone() else { return Ok(None) };
        let directory = self.repo.layer_dir(&upper.id);
        WorkingFiles::discard_copies(&directory)?;
        let mut copies = Copies { upper, directory, made: Vec::new() };
        for ino in passed {
            if self.node(ino).is_ok_and(|node| node.inode.nlink > 0) {
                copies.add(ino)?;
            }
        }
        Ok(Some(copies))
    }

    /// The files that are passed through, those that mappings alone were suspected to keep so only if they do.
    fn passed_inos(&self) -> Vec<Ino> {
        let passed = self.open.passed().into_iter();
        passed.filter(|file| file.open || !self.let_go(file.ino, None)).map(|file| file.ino).collect()
    }

    /// Has open files that went on in `upper` known as its own.
    pub(crate) fn own_carried(&self, upper: &Upper) {
        for file in self.open.passed() {
            if let Some(open) = file.file
                && let Ok(Some(own)) = upper.files.open_file(file.ino, true)
            {
                open.replace(Content::File { layer: upper.id, file: own });
            }
            self.volatile.mark(file.ino, false);
        }
    }

    /// Where files lie, as far as that can be told: for people.
    pub(crate) fn paths_of(&self, inos: &[Ino]) -> Vec<Vec<u8>> {
        inos.iter().filter_map(|ino| self.path_of(*ino).ok().flatten()).collect()
    }

    fn path_of(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        let mut path = Vec::new();
        let mut at = ino;
        while at != self.root {
            let Some(parent) = self.node(at)?.inode.parent else { return Ok(None) };
            let listing = self.list(parent)?;
            let Some(entry) = listing.after(DOT_DOT).find(|entry| entry.ino == at) else {
                return Ok(None);
            };
            let mut below = entry.name.to_vec();
            if !path.is_empty() {
                below.push(b'/');
                below.append(&mut path);
            }
            path = below;
            at = parent;
        }
        Ok(Some(path))
    }
}

impl Copies {
    fn add(&mut self, ino: Ino) -> Result<()> {
        if self.made.iter().any(|copy| copy.ino == ino) {
            return Ok(());
        }
        // A file that is not there is empty, and stays so unless it is made, which needs the upper.
        if let Some(source) = self.upper.files.open_file(ino, false)? {
            let file = WorkingFiles::make_copy(&self.directory, ino)?;
            let mut copy = Copy { ino, source, file, cloned: false, agreed: None };
            copy.begin()?;
            self.made.push(copy);
        }
        Ok(())
    }

    /// Whether `upper` is what the copies were made for.
    pub(crate) fn are_of(&self, upper: &Upper) -> bool {
        self.upper.id == upper.id
    }

    /// Removes them: nobody reads or writes any of the files past the view any more.
    pub(crate) fn discard(self) -> Result<()> {
        WorkingFiles::discard_copies(&self.directory)
    }

    /// The instant itself: makes the copies what the files are now, gives the files rows and names in `next`, and has the
    /// frozen layer's rows say what the copies are. The caller keeps everybody else from the view. Returns the files that
    /// went on, and those among them whose copies may be of no instant.
    pub(crate) fn carry(
        mut self,
        state: &State,
        tables: &mut Tables,
        next: &Upper,
        commit: &mut Commit,
    ) -> Result<Carried> {
        for file in state.open.passed() {
            self.add(file.ino)?;
        }
        let mut carried = Carried { inos: Vec::new(), torn: Vec::new() };
        let mut frozen = Commit::new();
        for copy in self.made {
            let Some(row) = tables.upper().map(|catalog| catalog.inode(copy.ino)).transpose()?.flatten()
            else {
                WorkingFiles::discard_copy(&self.directory, copy.ino)?;
                continue;
            };
            if row.nlink == 0 || row.body != (Body::File { layer: self.upper.id }) {
                WorkingFiles::discard_copy(&self.directory, copy.ino)?;
                continue;
            }
            let taken = copy.take()?;
            let row = row_of(row, &taken);
            frozen.put(row.clone());
            next.files.link_from(&self.upper.files, taken.ino)?;
            commit.put(Inode { body: Body::File { layer: next.id }, fallback: None, ..row });
            put_ancestors(tables, taken.ino, commit)?;
            if taken.torn {
                carried.torn.push(taken.ino);
            }
            carried.inos.push(taken.ino);
        }
        if !carried.inos.is_empty() {
            tables.commit(&frozen)?;
            self.upper.log.committed();
        }
        Ok(carried)
    }
}

/// What [`Copies::carry`] did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    /// The files that go on in the next upper.
    pub(crate) inos: Vec<Ino>,
    /// Those whose copies may be of no instant.
    pub(crate) torn: Vec<Ino>,
}

impl Copy {
    fn begin(&mut self) -> Result<()> {
        match rustix::fs::ioctl_ficlone(&self.file, &self.source) {
            Ok(()) => {
                self.cloned = true;
                return Ok(());
            }
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {}
            Err(error) => return Err(ViewError::host("clone a working file")(error)),
        }
        for pass in 0..PASSES {
            let before = stat_open(&self.source)?;
            if !self.pass(pass == 0)? {
                self.agreed = Some(before);
                break;
            }
        }
        Ok(())
    }

    /// Makes the copy what the file is now.
    fn take(mut self) -> Result<Taken> {
        let mut torn = false;
        if self.cloned {
            self.file.set_len(0).map_err(ViewError::host("clone a working file"))?;
            rustix::fs::ioctl_ficlone(&self.file, &self.source)
                .map_err(ViewError::host("clone a working file"))?;
        } else {
            torn = self.catch_up()?;
        }
        let stat = stat_open(&self.source)?;
        set_open_mtime(&self.file, stat.mtime)?;
        Ok(Taken { ino: self.ino, stat, torn })
    }

    /// A last pass, if the file changed since the one that found nothing to change. Tells whether the copy may still not
    /// be what the file was at any instant.
    fn catch_up(&mut self) -> Result<bool> {
        for _ in 0..2 {
            let before = stat_open(&self.source)?;
            if self.agreed == Some(before) {
                return Ok(false);
            }
            if before.size > LAST_PASS_MAX {
                return Ok(true);
            }
            let changed = self.pass(false)?;
            if !changed || stat_open(&self.source)? == before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings the copy up to what the file has; tells whether anything differed.
    fn pass(&self, first: bool) -> Result<bool> {
        self.try_pass(first).map_err(ViewError::host("copy a working file"))
    }

    fn try_pass(&self, first: bool) -> io::Result<bool> {
        let size = self.source.metadata()?.len();
        let mut changed = self.file.metadata()?.len() != size;
        self.file.set_len(size)?;
        let mut at = 0;
        let (mut new, mut old) = (vec![0; BLOCK], vec![0; BLOCK]);
        for extent in data_extents(&self.source, size)? {
            changed |= self.punch(at, extent.offset)?;
            at = extent.offset;
            while at < extent.end() {
                let want = BLOCK.min(usize::try_from(extent.end() - at).unwrap_or(BLOCK));
                let read = read_full(&self.source, &mut new[..want], at)?;
                if read == 0 {
                    break;
                }
                let same = !first
                    && read_full(&self.file, &mut old[..read], at)? == read
                    && new[..read] == old[..read];
                if !same {
                    self.file.write_all_at(&new[..read], at)?;
                    changed = true;
                }
                at += read as u64;
            }
        }
        Ok(changed | self.punch(at, size)?)
    }

    /// Makes a range of the copy a hole; tells whether it was none.
    fn punch(&self, from: u64, to: u64) -> io::Result<bool> {
        if from >= to || !data_extents(&self.file, to)?.iter().any(|data: &Extent| data.end() > from) {
            return Ok(false);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, from, to - from)?;
        Ok(true)
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What the row says of the file at that instant, of the copy as of the original.
fn row_of(row: Inode, taken: &Taken) -> Inode {
    Inode { ctime: row.ctime_beside(&taken.stat), mtime: taken.stat.mtime, host_ctime: None, ..row }
}

/// Rows in the next upper lead up to the root by themselves.
fn put_ancestors(tables: &Tables, ino: Ino, commit: &mut Commit) -> Result<()> {
    let Some(catalog) = tables.upper() else { return Ok(()) };
    let mut at = catalog.inode(ino)?.and_then(|row| row.parent);
    while let Some(parent) = at {
        if commit.inodes().any(|row| row.ino == parent) {
            break;
        }
        let Some(row) = catalog.inode(parent)? else { break };
        at = row.parent.filter(|above| *above != parent);
        commit.put(row);
    }
    Ok(())
}

/// Gives the nodes without a name rows in the next upper. Their working files get a second name there, so that
/// whoever has one open reads and writes it as before.
pub(crate) fn carry_orphans(tables: &Tables, upper: &Upper, next: &Upper, commit: &mut Commit) -> Result<()> {
    for ino in tables.orphans() {
        let Some(row) = tables.upper().map(|catalog| catalog.inode(ino)).transpose()?.flatten() else {
            continue;
        };
        let mut row = Inode { fallback: None, ..row };
        if row.body.layer() == Some(upper.id) {
            row.body = row.body.in_layer(next.id);
            next.files.link_from(&upper.files, ino)?;
        }
        commit.put(row).push(Effect::AddOrphan { ino, since: None });
    }
    Ok(())
}
