//! Snapshots of a thread as it is at one instant, and what becomes of the layers that are in one.

use crate::build::{Built, Watch, build};
use crate::catalog::Catalog;
use crate::crash;
use crate::error::{Result, ViewError};
use crate::layers::Frozen;
use crate::state::State;
use crate::view::{View, ViewOptions};
use selvedge_store::export::Progress;
use selvedge_store::{HoldError, LayerId, NewState, ObjectHold, ObjectId, Snapshot, Timestamp};
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// What a snapshot came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotReport {
    /// The thread's snapshot now: the one there was before, if nothing differed from it.
    pub snapshot: ObjectId,
    /// Names that came, went, or stand for something else than before: content, kind, mode, owner or extended
    /// attributes.
    pub changed: u64,
    /// Whether a snapshot was made.
    pub made: bool,
    /// Paths of files that were written past the view without a pause, so that the snapshot may have them as they were
    /// at no single instant.
    pub moving: Vec<Vec<u8>>,
}

/// Frozen layers all of which a snapshot or another layer has, and how to do without them.
#[derive(Debug)]
pub(crate) struct Covered {
    /// The thread's snapshot.
    pub(crate) snapshot: ObjectId,
    /// Bottom first.
    pub(crate) layers: Vec<LayerId>,
    pub(crate) built: Built,
    /// What they are replaced by, if the snapshot is not the thread's.
    pub(crate) by: Option<(Frozen, Catalog)>,
}

impl View {
    /// Makes a snapshot of the thread as it is at one instant of this call. The view goes on meanwhile: what is written
    /// after that instant is not in the snapshot. What it costs follows from what changed since the last one.
    ///
    /// `progress` counts the files that had to be read; it is called from several threads.
    ///
    /// # Errors
    /// When the disk or the store fails or is full, or the view takes no changes. The thread's snapshot is then what
    /// it was, and nothing is lost.
    pub fn snapshot(&self, message: &[u8], progress: &(dyn Fn(Progress) + Sync)) -> Result<SnapshotReport> {
        let state = self.state();
        let _one = state.snapshotting.lock().unwrap_or_else(PoisonError::into_inner);
        let _objects = state.hold_objects()?;
        let time = Timestamp::now();
        let began = Instant::now();
        let (thread, torn) = state.freeze()?;
        let frozen_after = began.elapsed();
        if thread.layers.is_empty() || state.is_covered(thread.snapshot, &thread.layers) {
            return Ok(SnapshotReport {
                snapshot: thread.snapshot,
                changed: 0,
                made: false,
                moving: Vec::new(),
            });
        }
        crash::point("snapshot.frozen");
        let options = ViewOptions { boot_id: Some(state.boot_id.clone()), ..ViewOptions::default() };
        let frozen = Self::open_frozen(Arc::clone(&state.repo), &thread.snapshot, &thread.layers, options)?;
        // One search for the names of hard-linked files does for all snapshots that are made while the view is open.
        frozen.state().base().share_links(&state.base());
        let built = build(frozen.state(), &state.known(), Watch { progress, is_over: &|| false })?;
        let built_after = began.elapsed();
        crash::point("snapshot.built");
        let store = state.repo.store();
        let before = store.snapshot(&thread.snapshot)?;
        let made = before.root != built.root;
        let snapshot = if made {
            let parents = vec![thread.snapshot];
            let snapshot = Snapshot { root: built.root.clone(), parents, time, message: message.to_vec() };
            store.put_snapshot(&snapshot)?
        } else {
            thread.snapshot
        };
        store.sync()?;
        crash::point("snapshot.before-ref");
        let changed = built.changed;
        state.point_at(Covered { snapshot, layers: thread.layers, built, by: None })?;
        crash::point("snapshot.after-ref");
        tracing::debug!(%snapshot, changed, ?frozen_after, ?built_after, durable_after = ?began.elapsed(), "snapshot");
        state.collapse_when_due()?;
        let moving = state.paths_of(&torn);
        Ok(SnapshotReport { snapshot, changed, made, moving })
    }
}

impl State {
    /// Keeps objects from being removed: held from before the first one is looked for until a thread's reference reaches
    /// what is made of them.
    pub(crate) fn hold_objects(&self) -> Result<ObjectHold> {
        self.repo.hold_objects().map_err(|error| {
            let source = match error {
                HoldError::Io { source, .. } => source,
                busy @ HoldError::Busy { .. } => io::Error::new(io::ErrorKind::TimedOut, busy.to_string()),
            };
            ViewError::Host { what: "keep objects from being removed", source }
        })
    }

    /// Points the thread at a snapshot that has all that some of its frozen layers say. They stay for now: what they
    /// say is true over the snapshot as well.
    fn point_at(&self, covered: Covered) -> Result<()> {
        let mut thread = self.thread();
        if let Some(thread) = thread.as_mut() {
            let new =
                NewState { snapshot: covered.snapshot, layers: thread.layers.clone(), upper: thread.upper };
            *thread = self.repo.refs().update_thread(thread, &new)?;
        }
        drop(thread);
        self.note_covered(covered);
        self.work.wake_soon();
        Ok(())
    }
}
