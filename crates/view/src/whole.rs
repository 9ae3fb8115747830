//! Large files that were changed block by block, and are used so much that they had better have all of their bytes: only then
//! can they be opened past the view.
//!
//! The bytes are put together in another host's file while the old one is read and written as before, and what was changed
//! meanwhile once more, until nothing was. Then, while nobody can write, the new file takes the old one's number. It says of
//! itself that all parts are its own, so that it is right whether the row calls it patched or not: a death at any point loses
//! nothing, and after a loss of power the row says what counts, of the old file as of the new one.

use crate::attr::Allocate;
use crate::background::{Background, Bell};
use crate::contents::copy_range;
use crate::crash;
use crate::error::{Result, ViewError};
use crate::inode::{Body, Patch};
use crate::layers::Upper;
use crate::open_table::{Content, OpenFile};
use crate::patched::{Patched, Watch, allocate, data_extents};
use crate::state::State;
use crate::tables::Node;
use crate::working_files::{TempFile, stat_open};
use foldhash::HashMap;
use selvedge_store::{BlobCheck, Extent, Ino};
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long more is waited for before it is looked which files pay: most are opened again at once, or never.
const GATHER: Duration = Duration::from_millis(500);

/// Bytes that are copied and made durable before the disk and the processor are left to others for as long as that took.
const CHUNK: u64 = 8 << 20;

/// How often what was changed meanwhile is copied before somebody who writes all the time is left alone.
const PASSES: usize = 16;

/// Bytes that a copy leaves free on the disk, and one part of how many that the disk has.
const SPARE: u64 = 512 << 20;
const SPARE_PART: u64 = 10;

/// Room of a host's file beyond its data that is nobody's wish, but what the disk needs to find the data.
const OVERHEAD: u64 = 1 << 20;

const WHAT: &str = "make a large file whole";

/// How much patched files are used, and the thread that makes them whole.
#[derive(Debug, Default)]
pub(crate) struct Wholes {
    /// Rings when a file that was used is closed.
    pub(crate) bell: Bell,
    /// Whether whole files are opened past the view, so that it is worth while.
    passes: AtomicBool,
    /// Requests for reads and writes of patched files, since they were patched or last tried to be made whole.
    requests: Mutex<HashMap<Ino, u64>>,
    /// Held by whoever makes files whole.
    making: Mutex<()>,
}

impl Wholes {
    /// It is worth while from now on.
    pub(crate) fn begin(&self) {
        self.passes.store(true, Ordering::Release);
    }

    /// A patched file was read or written by a request.
    pub(crate) fn used(&self, ino: Ino) {
        if self.passes.load(Ordering::Acquire) {
            *self.requests().entry(ino).or_default() += 1;
        }
    }

    /// Whether the file is a patched one that was used since it was looked at last.
    pub(crate) fn was_used(&self, ino: Ino) -> bool {
        self.passes.load(Ordering::Acquire) && self.requests().contains_key(&ino)
    }

    /// The file is gone, or is patched no more, or is about to be made whole.
    pub(crate) fn forget(&self, ino: Ino) {
        self.requests().remove(&ino);
    }

    /// All files have gone to a layer of their own.
    pub(crate) fn forget_all(&self) {
        self.requests().clear();
    }

    fn all_used(&self) -> Vec<(Ino, u64)> {
        self.requests().iter().map(|(ino, requests)| (*ino, *requests)).collect()
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Ino, u64>> {
        // Whole at any point.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that makes files whole. It copies for as long as that takes, which neither upkeep nor the journal may wait for.
pub(crate) fn start(state: &Arc<State>) -> Result<Background> {
    Background::start(
        state,
        "whole files",
        |state| &state.wholes.bell,
        |state| {
            if state.wholes.bell.rest(GATHER)
                && let Err(error) = state.make_whole_what_pays()
            {
                tracing::warn!(%error, "a large file stays as it is");
            }
        },
    )
}

/// Whether `requests` for a file have cost more than a copy of its `size` bytes will. From then on the copy costs at most as
/// much again as was spent anyway, whatever becomes of the file: a rule for who cannot know how long something is rented.
const fn pays(requests: u64, size: u64, request: u64) -> bool {
    requests.saturating_mul(request) >= size
}

/// A patched file of the upper that is being made whole.
struct Making<'a> {
    state: &'a State,
    upper: &'a Upper,
    node: Node,
    file: &'a OpenFile,
    content: &'a Arc<Content>,
    patched: &'a Patched,
    patch: &'a Patch,
}

impl State {
    /// Makes patched files of the upper whole that were used so much that it pays.
    pub(crate) fn make_whole_what_pays(&self) -> Result<()> {
        let _alone = self.wholes.making.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made = Ok(());
        for (ino, requests) in self.wholes.all_used() {
            let made_one = self.make_whole_if_it_pays(ino, requests);
            made = made.and(made_one);
        }
        made
    }

    fn make_whole_if_it_pays(&self, ino: Ino, requests: u64) -> Result<()> {
        let Some(upper) = self.layers().upper.clone() else { return Ok(()) };
        let Some(node) = self.patched_node(ino, &upper)? else {
            self.wholes.forget(ino);
            return Ok(());
        };
        let size = self.attr(&node)?.size;
        if !pays(requests, size, self.patching.request) {
            return Ok(());
        }
        // Whatever comes of it, it is not tried again until that has been paid for, too.
        self.wholes.forget(ino);
        if !self.has_room_for(size) {
            tracing::debug!(ino = ino.0, size, "no room to make a large file whole");
            return Ok(());
        }
        let begun = Instant::now();
        let made = self.make_whole(&upper, &node);
        // Who let go of the file while it was held here has left that to the next round.
        self.work.wake_soon();
        let took = begun.elapsed();
        tracing::debug!(ino = ino.0, size, requests, ?made, ?took, "making a large file whole");
        made.map(drop)
    }

    /// The node, if it is a file with a name that the upper has in part.
    fn patched_node(&self, ino: Ino, upper: &Upper) -> Result<Option<Node>> {
        match self.node(ino) {
            Err(ViewError::NotFound) => Ok(None),
            node => {
                let node = node?;
                let is_patched = matches!(&node.inode.body, Body::Patched(patch) if patch.layer == upper.id);
                Ok((is_patched && node.inode.nlink > 0).then_some(node))
            }
        }
    }

    /// Whether the disk has room for so many bytes, and then some for others.
    fn has_room_for(&self, size: u64) -> bool {
        let Ok(disk) = rustix::fs::statvfs(self.repo.path()) else { return false };
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let spare = (bytes(disk.f_blocks) / SPARE_PART).min(SPARE);
        bytes(disk.f_bavail) >= size.saturating_add(spare)
    }

    /// Tells whether the file is whole; if not, it is what it was.
    fn make_whole(&self, upper: &Upper, node: &Node) -> Result<bool> {
        let ino = node.inode.ino;
        let held = self.hold_regular(node)?;
        let content = held.file.content();
        let (Content::Patched { layer, file: patched }, Body::Patched(patch)) = (&*content, &node.inode.body)
        else {
            return Ok(false);
        };
        if *layer != upper.id || patched.has_room_beyond_its_data()? {
            return Ok(false);
        }
        let (file, content) = (&*held.file, &content);
        let making = Making { state: self, upper, node: node.clone(), file, content, patched, patch };
        if !making.run()? {
            return Ok(false);
        }
        crash::point("whole.after-commit");
        self.make_certain(ino)?;
        Ok(true)
    }
}

impl Making<'_> {
    fn run(&self) -> Result<bool> {
        if !self.verify()? {
            return Ok(false);
        }
        let watch = self.patched.watch();
        let mut temp = Some(self.upper.files.temp_file()?);
        let mut changed = None;
        for _ in 0..PASSES {
            let Some(to) = &temp else { break };
            if !self.is_wanted()? || !self.copy(to.file()?, changed.as_deref())? {
                return Ok(false);
            }
            if self.exchange(&mut temp, &watch)? {
                return Ok(true);
            }
            changed = Some(watch.take());
        }
        Ok(false)
    }

    /// Reads all of the blob, since bytes that are no longer what they were must not become the thread's own, which nobody
    /// can tell from a change. `false` when there is to be no copy after all.
    fn verify(&self) -> Result<bool> {
        let Patch { blob, size, holes, .. } = self.patch;
        let data = self.state.data_of_blob(holes.as_ref(), *size)?;
        let reader = self.state.repo.store().open_blob(blob, *size)?;
        let Some(mut check) = BlobCheck::begin(&reader, *blob, *size, &data) else { return Ok(true) };
        let all = self.in_chunks(&data, |chunk| Ok(check.read_from(&reader, chunk)?))?;
        if all {
            check.end()?;
        }
        Ok(all)
    }

    /// Copies what was changed, or everything, and makes it durable. `false` when there is to be no copy after all.
    fn copy(&self, to: &File, changed: Option<&[Range<u64>]>) -> Result<bool> {
        let size = stat_open(self.patched.file())?.size;
        to.set_len(size).map_err(ViewError::host(WHAT))?;
        let mut data = self.state.data_of(&self.node, self.content, size)?;
        if let Some(changed) = changed {
            for range in changed.iter().map(|range| range.start..range.end.min(size)) {
                if !range.is_empty() {
                    let len = range.end - range.start;
                    allocate(to, Allocate::PunchHole, range.start, len).map_err(ViewError::host(WHAT))?;
                }
            }
            data = within(&data, changed);
        }
        let mut unsynced = 0;
        let all = self.in_chunks(&data, |chunk| {
            // Bytes that are gone by now were changed, and are looked at again.
            copy_range(self.content, to, chunk.start, chunk.end)?;
            unsynced += chunk.end - chunk.start;
            if unsynced < CHUNK {
                return Ok(());
            }
            unsynced = 0;
            to.sync_data().map_err(ViewError::host(WHAT))
        })?;
        if all {
            self.patched.coverage().whole().write(to).map_err(ViewError::host(WHAT))?;
            to.sync_all().map_err(ViewError::host(WHAT))?;
        }
        Ok(all)
    }

    /// Calls `each` with one piece of `data` after the other. `false` when there is to be no copy after all.
    fn in_chunks(&self, data: &[Extent], mut each: impl FnMut(Range<u64>) -> Result<()>) -> Result<bool> {
        let Self { state, .. } = self;
        for extent in data {
            for start in (extent.offset..extent.end()).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
                let chunk = start..extent.end().min(start + CHUNK);
                if !self.is_wanted()? || !state.has_room_for(chunk.end - chunk.start) {
                    return Ok(false);
                }
                let begun = Instant::now();
                each(chunk)?;
                if !state.wholes.bell.rest(begun.elapsed()) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether the file is still what it was, and has a name.
    fn is_wanted(&self) -> Result<bool> {
        let Self { state, upper, file, content, .. } = self;
        let is_upper = state.gate().is_upper(upper.id);
        Ok(is_upper
            && Arc::ptr_eq(&file.content(), content)
            && state.patched_node(file.ino, upper)?.is_some())
    }

    /// Has the new file take the place of the old one, unless that was changed since it was copied, or is no more what it was.
    fn exchange(&self, temp: &mut Option<TempFile<'_>>, watch: &Watch<'_>) -> Result<bool> {
        let Self { state, upper, file, .. } = self;
        let ino = file.ino;
        let Some(new) = temp.as_ref() else { return Ok(false) };
        let under = state.repo.store().open_blob(&self.patch.blob, self.patch.size)?;
        let cloned = new.file()?.try_clone().map_err(ViewError::host(WHAT))?;
        let new = Content::Patched { layer: upper.id, file: Patched::open(ino, cloned, under, true)? };
        let _replacing = file.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = state.change(|change| {
            if change.upper != upper.id {
                return Ok(None);
            }
            let node = match change.node(ino) {
                Err(ViewError::NotFound) => return Ok(None),
                node => node?,
            };
            let is_same = node.inode.body.is_where(&self.node.inode.body) && node.inode.nlink > 0;
            let mut row = change.row_of(&node)?;
            let shut = state.shut_gate();
            if !is_same || !watch.saw_nothing() || !Arc::ptr_eq(&file.content(), self.content) {
                return Ok(None);
            }
            let Some(temp) = temp.take() else { return Ok(None) };
            crash::point("whole.before-rename");
            let own = temp.adopt(ino, row.mtime)?;
            file.replace(new);
            drop(shut);
            crash::point("whole.before-commit");
            row.host_ctime = Some(stat_open(&own)?.ctime);
            let patched = std::mem::replace(&mut row.body, Body::File { layer: upper.id });
            row.fallback.get_or_insert(patched);
            change.commit.put(row);
            Ok(Some(own))
        })?;
        let Some(own) = whole else { return Ok(false) };
        file.replace(Content::File { layer: upper.id, file: own });
        Ok(true)
    }
}

impl Patched {
    /// Whether the file was given room that it has not been filled with, which a copy would not have.
    fn has_room_beyond_its_data(&self) -> Result<bool> {
        let host = stat_open(self.file())?;
        let data =
            data_extents(self.file(), host.size).map_err(ViewError::host("find a working file's data"))?;
        let data: u64 = data.iter().map(|extent| extent.len).sum();
        Ok(host.blocks.saturating_mul(512) > data.saturating_add(OVERHEAD))
    }
}

/// The parts of `data` that lie in `ranges`.
fn within(data: &[Extent], ranges: &[Range<u64>]) -> Vec<Extent> {
    let mut within = Vec::new();
    for range in ranges {
        for extent in &data[data.partition_point(|extent| extent.end() <= range.start)..] {
            if extent.offset >= range.end {
                break;
            }
            let offset = extent.offset.max(range.start);
            within.push(Extent { offset, len: extent.end().min(range.end) - offset });
        }
    }
    within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_when_as_much_was_spent_without_it() {
        assert!(!pays(0, 1, 1 << 14));
        assert!(!pays(1023, 16 << 20, 1 << 14));
        assert!(pays(1024, 16 << 20, 1 << 14));
        assert!(pays(u64::MAX, u64::MAX, u64::MAX));
    }

    #[test]
    fn what_lies_within_is_each_part_of_it() {
        let data = [(0, 10), (20, 10), (40, 10)].map(|(offset, len)| Extent { offset, len });
        let found = |ranges: &[Range<u64>]| -> Vec<_> {
            within(&data, ranges).iter().map(|extent| (extent.offset, extent.len)).collect()
        };
        assert_eq!(found(&[5..25, 45..u64::MAX]), [(5, 5), (20, 5), (45, 5)]);
        assert_eq!(found(&[10..20, 50..60]), []);
    }
}
