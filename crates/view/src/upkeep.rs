//! Work that no caller waits for: syncing copies, settling replaced names, removing what has no name, keeping
//! the journal short.

use crate::catalog::Catalog;
use crate::change::Change;
use crate::commit::Effect;
use crate::contents::sync_file;
use crate::coverage::Coverage;
use crate::crash;
use crate::error::{Result, ViewError};
use crate::state::State;
use crate::tables::Tables;
use foldhash::HashSet;
use selvedge_store::Ino;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long work gathers before it is done.
const GATHER: Duration = Duration::from_millis(500);

/// The same, where somebody may be about to need the room of what was removed.
const GATHER_SHORT: Duration = Duration::from_millis(5);

/// Bytes free on the disk below which room is short: what a fast disk is filled with in the time that work gathers.
const SHORT: u64 = 512 << 20;

/// Nodes spoken of in one commit: it holds the tables, and others wait for them.
const REAP_BATCH: usize = 256;

/// Nodes whose rows are dropped before their bytes go, with one sync for all: what is written of these fits into the reserve, so
/// that on a full disk each round gives room back.
const REAP_ROUND: usize = 64 * REAP_BATCH;

#[derive(Debug, Default)]
struct Queue {
    reap: Vec<Ino>,
    /// Orphans that the kernel forgot while a handle or a replaced name kept them.
    forgotten: HashSet<Ino>,
    urgent: bool,
    stop: bool,
}

/// What waits for the upkeep thread.
#[derive(Debug, Default)]
pub(crate) struct Work {
    queue: Mutex<Queue>,
    changed: Condvar,
    gathering: AtomicBool,
}

impl Work {
    /// Asks for a round as soon as possible.
    pub(crate) fn wake(&self) {
        self.queue().urgent = true;
        self.changed.notify_one();
    }

    /// Asks for a round some time soon.
    pub(crate) fn wake_soon(&self) {
        if !self.gathering.swap(true, Ordering::AcqRel) {
            let _queue = self.queue();
            self.changed.notify_one();
        }
    }

    /// The node has neither name nor user.
    pub(crate) fn reap(&self, ino: Ino) {
        self.queue().reap.push(ino);
        self.wake_soon();
    }

    /// The kernel has forgotten an orphan that something still keeps.
    pub(crate) fn forget_later(&self, ino: Ino) {
        self.queue().forgotten.insert(ino);
    }

    /// Whether the kernel has forgotten the node already.
    pub(crate) fn was_forgotten(&self, ino: Ino) -> bool {
        self.queue().forgotten.remove(&ino)
    }

    fn take_reap(&self) -> Vec<Ino> {
        std::mem::take(&mut self.queue().reap)
    }

    /// Waits until there is something to do, at most `within`, and then until more has gathered, for as long as `gather`
    /// says; `false` means stop.
    fn wait(&self, within: Option<Duration>, gather: impl FnOnce() -> Duration) -> bool {
        let waited =
            self.changed.wait_timeout_while(self.queue(), within.unwrap_or(Duration::MAX), |queue| {
                !queue.stop && !queue.urgent && !self.gathering.load(Ordering::Acquire)
            });
        drop(waited);
        let gather = gather();
        let (mut queue, _) = self
            .changed
            .wait_timeout_while(self.queue(), gather, |queue| !queue.stop && !queue.urgent)
            .unwrap_or_else(PoisonError::into_inner);
        queue.urgent = false;
        self.gathering.store(false, Ordering::Release);
        !queue.stop
    }

    /// Whether the view is being closed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.queue().stop
    }

    fn stop(&self) {
        self.queue().stop = true;
        self.changed.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that does a view's upkeep; ends when dropped.
#[derive(Debug)]
pub(crate) struct Upkeep {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(crate) fn start(state: &Arc<State>) -> Result<Self> {
        let own = Arc::clone(state);
        let thread = std::thread::Builder::new()
            .name("upkeep".to_owned())
            .spawn(move || {
                let mut due = None;
                while own.work.wait(due, || gather(own.free_room())) {
                    due = own.upkeep().unwrap_or_else(|error| {
                        tracing::warn!(%error, "upkeep is put off");
                        if own.latch.check().is_ok() {
                            own.work.wake_soon();
                        }
                        None
                    });
                }
            })
            .map_err(ViewError::host("start the upkeep thread"))?;
        Ok(Self { state: Arc::clone(state), thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.state.work.stop();
        if let Some(thread) = self.thread.take() {
            // It holds no lock across the join, and its rounds end.
            let _ = thread.join();
        }
    }
}

/// How long work gathers on a disk with so many bytes free.
const fn gather(free: Option<u64>) -> Duration {
    match free {
        Some(free) if free < SHORT => GATHER_SHORT,
        _ => GATHER,
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("repo", &self.repo.path()).finish_non_exhaustive()
    }
}

impl Change<'_> {
    /// Settles every name that one of these replaced.
    pub(crate) fn settle_sources(&mut self, sources: &HashSet<Ino>) {
        let settled: Vec<_> = (self.tables.unsettled().iter())
            .filter(|(_, replaced)| sources.contains(&replaced.source))
            .map(|((parent, name), replaced)| (*parent, name.clone(), replaced.old))
            .collect();
        for (parent, name, old) in settled {
            self.settle(parent, name, old);
        }
    }

    /// Lets go of the node that a replaced name could have fallen back to.
    pub(crate) fn settle(&mut self, parent: Ino, name: Vec<u8>, old: Ino) {
        self.commit.push(Effect::Settle { parent, name });
        if self.state.work.was_forgotten(old) {
            self.state.work.reap(old);
        }
    }
}

impl State {
    /// One round; tells when another is due although nobody asks for it.
    pub(crate) fn upkeep(&self) -> Result<Option<Duration>> {
        if self.read_only {
            return Ok(None);
        }
        self.latch.check()?;
        self.seal()?;
        let due = self.collapse_when_due()?;
        self.merge_if_deep()?;
        let Some(upper) = self.layers().upper.clone() else { return Ok(due) };
        if self.open.note_durable_rows() {
            // Programs that map such a file make its bytes durable by themselves (msync(2)), and we never hear of it.
            self.sync_log()?;
        }
        // Each step is tried: on a full disk the ones that free room must not wait for those that need some.
        let steps = [self.bring_in(), self.reap_forgotten(), self.settle_suspects(), self.confirm_copies()];
        upper.reserve.refill();
        steps.into_iter().collect::<Result<()>>().map(|()| due)
    }

    /// Bytes free on the disk that holds the repository, if it tells.
    fn free_room(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(self.repo.path()).ok()?;
        disk.f_bavail.checked_mul(disk.f_frsize)
    }

    fn reap_forgotten(&self) -> Result<()> {
        let forgotten: Vec<Ino> = self.work.queue().forgotten.iter().copied().collect();
        for ino in forgotten {
            if self.is_free(&self.tables(), ino) && self.work.was_forgotten(ino) {
                self.work.reap(ino);
            }
        }
        self.reap_queued()
    }

    /// Makes whatever a worker that died may have left volatile durable.
    fn settle_suspects(&self) -> Result<()> {
        if self.all_dirty.load(Ordering::Acquire) {
            self.sync_disk()?;
            self.all_dirty.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Whether rows wait for their working files to be durable.
    pub(crate) fn is_waiting(&self) -> bool {
        let tables = self.tables();
        !tables.fallbacks().is_empty() || !tables.unsettled().is_empty()
    }

    /// Makes all working files durable at once, which takes no longer for many than for few, and says so in the catalog of
    /// those whose rows wait for it.
    pub(crate) fn sync_disk(&self) -> Result<()> {
        let upper = self.upper()?;
        let waiting: HashSet<Ino> = {
            let tables = self.tables();
            let waiting = tables.fallbacks().iter().copied();
            let sources = tables.unsettled().values().map(|replaced| replaced.source);
            waiting.chain(sources).collect()
        };
        let seen = self.volatile.look_at_all();
        self.latch.guard("syncfs", upper.files.sync_disk())?;
        for (ino, mark) in seen {
            self.volatile.synced(ino, Some(mark));
        }
        self.confirm_synced(&upper, &waiting.into_iter().collect::<Vec<_>>())
    }

    /// Makes copies and the sources of replaced names durable, then says so in the catalog.
    pub(crate) fn confirm_copies(&self) -> Result<()> {
        let pending: HashSet<Ino> = {
            let tables = self.tables();
            let sources = tables.unsettled().values().map(|replaced| replaced.source);
            let patched = self.patched.all();
            tables.fallbacks().iter().copied().chain(sources).chain(patched).collect()
        };
        for ino in pending {
            self.make_certain(ino)?;
        }
        Ok(())
    }

    fn sync_working_file(&self, ino: Ino) -> Result<Option<Coverage>> {
        let upper = self.upper()?;
        let seen = self.volatile.look(ino);
        let mut coverage = None;
        // Before the file is looked at, so that who changes it meanwhile is heard.
        self.patched.take(ino);
        if let Some(file) = upper.files.open_file(ino, false)? {
            let synced = sync_file(&file, true).map_err(ViewError::host("fdatasync of a working file"));
            coverage = self.latch.guard("fdatasync", synced)?;
        }
        self.volatile.synced(ino, seen);
        Ok(coverage)
    }

    /// Takes every patched file of the upper for one that a worker changed before it died.
    pub(crate) fn suspect_patched(&self) -> Result<()> {
        let patched = self.tables().upper().map(Catalog::patched).transpose()?;
        patched.into_iter().flatten().for_each(|(ino, _)| self.patched.changed(ino));
        Ok(())
    }

    /// Settles every name that was replaced in this directory, or moved out of it to replace another.
    pub(crate) fn settle_directory(&self, directory: Ino) -> Result<()> {
        let sources: Vec<Ino> = (self.tables().unsettled().iter())
            .filter(|((parent, _), replaced)| *parent == directory || replaced.from.0 == directory)
            .map(|(_, replaced)| replaced.source)
            .collect();
        for source in sources {
            self.make_certain(source)?;
        }
        Ok(())
    }

    /// Makes a working file durable and says so in the catalog.
    pub(crate) fn make_certain(&self, ino: Ino) -> Result<()> {
        let coverage = self.sync_working_file(ino)?;
        self.confirm(ino, coverage)
    }

    /// Queues everything without a name, for a connection on which nothing can be open.
    pub(crate) fn reap_orphans(&self) {
        let orphans: Vec<Ino> = self.tables().orphans().collect();
        for ino in orphans {
            self.work.reap(ino);
        }
    }

    /// Whether nothing keeps an orphan any more but the kernel, perhaps.
    fn is_free(&self, tables: &Tables, ino: Ino) -> bool {
        !self.open.in_use(ino) && !tables.is_kept(ino)
    }

    /// Removes an orphan that the kernel has forgotten, once nothing else keeps it.
    pub(crate) fn reap_when_free(&self, tables: &Tables, ino: Ino) {
        self.work.forget_later(ino);
        // Whoever kept it may have let go before the note was there to be found.
        if self.is_free(tables, ino) && self.work.was_forgotten(ino) {
            self.work.reap(ino);
        }
    }

    /// Removes queued nodes now, for a caller that needs their space; tells whether there were any.
    pub(crate) fn reap_now(&self) -> bool {
        !self.work.queue().reap.is_empty() && self.reap_queued().is_ok()
    }

    /// Removes nodes without name and user.
    pub(crate) fn reap_queued(&self) -> Result<()> {
        let queued = self.work.take_reap();
        for (at, round) in queued.chunks(REAP_ROUND).enumerate() {
            self.reap(round).inspect_err(|_| {
                let left = &queued[at * REAP_ROUND..];
                self.work.queue().reap.extend_from_slice(left);
            })?;
        }
        Ok(())
    }

    /// Rows first, and bytes once the log that says so is durable. The orphan's entry goes last: until then the next
    /// opening, or the next round after a failure, finds it and does what is left to do.
    fn reap(&self, queued: &[Ino]) -> Result<()> {
        crash::point("reap.before-commit");
        let mut gone = Vec::new();
        let mut dropped = Ok(());
        for batch in queued.chunks(REAP_BATCH) {
            match self.drop_rows(batch) {
                Ok(batch) => gone.extend(batch),
                // What is done so far may be what gives the others room.
                Err(error) => {
                    dropped = Err(error);
                    break;
                }
            }
        }
        if gone.is_empty() {
            return dropped;
        }
        self.sync_log()?;
        crash::point("reap.before-delete");
        let upper = self.upper()?;
        for &ino in &gone {
            self.volatile.forget(ino);
            self.wholes.forget(ino);
            upper.files.remove(ino)?;
        }
        for batch in gone.chunks(REAP_BATCH) {
            self.change_freeing(|change| {
                for &ino in batch {
                    change.commit.push(Effect::DropOrphan(ino));
                }
                Ok(())
            })?;
        }
        let tables = self.tables();
        if let (true, Some(upper)) = (tables.orphans().next().is_none(), &self.gate().upper) {
            upper.held.clear();
        }
        dropped
    }

    /// Takes away the rows of nodes that nothing keeps, and tells which these are.
    fn drop_rows(&self, batch: &[Ino]) -> Result<Vec<Ino>> {
        self.change_freeing(|change| {
            let mut gone = Vec::new();
            for &ino in batch {
                if !change.tables.is_orphan(ino) {
                    continue;
                }
                if !change.state.is_free(&change.tables, ino) {
                    change.state.reap_when_free(&change.tables, ino);
                    continue;
                }
                change.commit.push(Effect::DeleteInode(ino));
                gone.push(ino);
            }
            Ok(gone)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_gives_its_room_back_at_once_where_that_is_short() {
        assert_eq!(gather(Some(SHORT)), GATHER);
        assert_eq!(gather(None), GATHER);
        assert_eq!(gather(Some(0)), GATHER_SHORT);
        let work = Work::default();
        work.wake_soon();
        let begun = std::time::Instant::now();
        assert!(work.wait(None, || GATHER_SHORT));
        assert!(begun.elapsed() >= GATHER_SHORT, "more could gather");
    }
}
