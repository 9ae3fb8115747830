//! Making the upper of a view that is in use a frozen layer.

use crate::carry::{Carried, Copies, carry_orphans};
use crate::catalog::Catalog;
use crate::commit::{Commit, Effect};
use crate::crash;
use crate::error::{Result, ViewError};
use crate::layers::{Frozen, Layers, Upper};
use crate::state::State;
use crate::view::View;
use crate::working_files::WorkingFiles;
use selvedge_store::{Ino, NewState, Repository, ThreadLock, ThreadRef};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl View {
    /// Makes everything the thread says at this instant a frozen layer, which is never changed again; what follows
    /// goes to a new upper. Whatever was answered before is in the layer, whatever is answered later is not. Open
    /// files stay open and go on; files without a name are in no layer that is shared. A thread whose upper says
    /// nothing stays as it is.
    ///
    /// Returns the thread's reference as it is afterwards: its snapshot and its frozen layers are the thread as it was.
    ///
    /// # Errors
    /// When the disk fails or is full, or the view takes no changes: then nothing is frozen.
    pub fn freeze(&self) -> Result<ThreadRef> {
        self.state().freeze().map(|(thread, _)| thread)
    }

    /// As [`freeze`](Self::freeze), for a thread that nobody has open: the caller holds its lock, and `thread` is its
    /// reference since. An upper that was closed in order only has to be called frozen. `None` when the thread has to be
    /// opened for it.
    ///
    /// # Errors
    /// When the reference cannot be moved, or the upper is damaged.
    pub fn freeze_closed(
        repo: &Repository,
        _lock: &ThreadLock,
        thread: &ThreadRef,
    ) -> Result<Option<ThreadRef>> {
        let Some(upper) = thread.upper else { return Ok(Some(thread.clone())) };
        let directory = repo.layer_dir(&upper);
        let Some(mut catalog) = Frozen::open_if_closed(&directory)? else { return Ok(None) };
        if !catalog.says_anything()? {
            return Ok(Some(thread.clone()));
        }
        // Of a freeze that failed.
        WorkingFiles::discard_copies(&directory)?;
        let mut layers = thread.layers.clone();
        layers.push(upper);
        let new = NewState { snapshot: thread.snapshot, layers, upper: None };
        let frozen = repo.refs().update_thread(thread, &new)?;
        // Nobody deletes from a layer that is never changed again.
        let _ = std::fs::remove_file(directory.join("reserve"));
        Ok(Some(frozen))
    }
}

impl State {
    /// As [`View::freeze`]; names also the files whose copies may be of no instant, because somebody wrote them past the
    /// view without a pause.
    pub(crate) fn freeze(&self) -> Result<(ThreadRef, Vec<Ino>)> {
        self.check_writable()?;
        let mut guard = self.thread();
        loop {
            let Some(thread) = guard.as_mut() else { return Err(ViewError::ReadOnly) };
            // Most of it now, so that little is left for the instant itself.
            self.bring_in()?;
            let copies = self.copy_passed()?;
            // Files without a name have to lie in an upper at any instant, and so have those that are written past the
            // view; without any, the next change makes one.
            let needs_upper = !self.open.passed().is_empty() || self.tables().orphans().next().is_some();
            let spare = needs_upper.then(|| Upper::make(&self.repo, &self.boot_id, true)).transpose()?;
            let spare_id = spare.as_ref().map(|(upper, _)| upper.id);
            let outcome = self.freeze_now(thread, spare, copies);
            if let (Ok(Outcome::Unchanged | Outcome::NeedsUpper), Some(id)) = (&outcome, spare_id) {
                self.remove_layer(id);
            }
            let frozen = match outcome? {
                Outcome::Frozen(upper, carried) => Some((upper, carried)),
                Outcome::Unchanged => None,
                Outcome::NeedsUpper => continue,
            };
            let now = thread.clone();
            drop(guard);
            let mut torn = Vec::new();
            if let Some((upper, carried)) = frozen {
                self.close_frozen(&upper)?;
                torn = carried.torn;
                // It is made durable in the background.
                self.work.wake_soon();
            }
            return Ok((now, torn));
        }
    }

    /// The instant itself: no commit and no write of ours to a working file runs beside it.
    fn freeze_now(
        &self,
        thread: &mut ThreadRef,
        spare: Option<(Upper, Catalog)>,
        copies: Option<Copies>,
    ) -> Result<Outcome> {
        let mut tables = self.tables();
        let Some(catalog) = tables.upper_mut() else { return Ok(Outcome::Unchanged) };
        if !catalog.says_anything()? {
            return Ok(Outcome::Unchanged);
        }
        let mut layers = self.shut_gate();
        let shut = Instant::now();
        let Some(upper) = layers.upper.clone() else { return Ok(Outcome::Unchanged) };
        let is_needed = tables.orphans().next().is_some() || !self.open.passed().is_empty();
        let mut carried = Carried::default();
        let is_other = copies.as_ref().is_some_and(|copies| !copies.are_of(&upper));
        let spare = match spare {
            None if is_needed => return Ok(Outcome::NeedsUpper),
            None => {
                // Whoever was past the view is gone since they were begun, and nobody brings them up to date.
                copies.map_or(Ok(()), Copies::discard)?;
                None
            }
            Some(_) if is_other => return Ok(Outcome::NeedsUpper),
            Some((next, mut catalog)) => {
                let mut commit = Commit::new();
                carry_orphans(&tables, &upper, &next, &mut commit)?;
                upper.held.carry_to(&next.held)?;
                if let Some(copies) = copies {
                    carried = copies.carry(self, &mut tables, &next, &mut commit)?;
                }
                catalog.commit(&commit)?;
                next.log.committed();
                Some((next, catalog, commit))
            }
        };
        crash::point("freeze.before-ref");
        let mut new = NewState {
            snapshot: thread.snapshot,
            layers: thread.layers.clone(),
            upper: spare.as_ref().map(|(next, ..)| next.id),
        };
        new.layers.push(upper.id);
        *thread = self.repo.refs().update_thread(thread, &new)?;
        crash::point("freeze.after-ref");
        let directory = self.repo.layer_dir(&upper.id);
        let files = if carried.inos.is_empty() {
            Arc::clone(&upper.files)
        } else {
            // From here on the reference and what is in memory must not part.
            Arc::new(self.latch.guard("freeze", WorkingFiles::open_frozen(&directory))?)
        };
        let frozen = Frozen::of(&upper, files, directory, carried.inos.clone());
        let mut below = layers.frozen.clone();
        below.push(Arc::new(frozen));
        let (next, catalog) = match spare {
            Some((next, catalog, commit)) => {
                tables.forget_rows(&commit);
                (Some(Arc::new(next)), Some(catalog))
            }
            None => (None, None),
        };
        tables.freeze_upper(next.as_ref().map(|next| next.id).zip(catalog));
        *layers = Arc::new(Layers {
            base: Arc::clone(&layers.base),
            frozen: below,
            retired: layers.retired.clone(),
            upper: next.clone(),
        });
        self.volatile.forget_all();
        self.patched.forget_all();
        self.wholes.forget_all();
        self.all_dirty.store(false, Ordering::Release);
        if let Some(next) = &next {
            self.own_carried(next);
        }
        let copied = carried.inos.len();
        tracing::debug!(layer = %upper.id, gate_shut = ?shut.elapsed(), copied, "frozen");
        Ok(Outcome::Frozen(upper, carried))
    }

    /// Makes a frozen layer's catalog one file that anybody may read.
    fn close_frozen(&self, upper: &Upper) -> Result<()> {
        self.latch.guard("freeze", upper.log.sync())?;
        upper.reserve.release();
        let directory = self.repo.layer_dir(&upper.id);
        let reopen = |catalog: Catalog| {
            catalog.close_whole()?;
            Frozen::open_catalog(&directory)
        };
        let _alone = self.alone_with_journal();
        let closed = self.tables().reopen_frozen(upper.id, reopen);
        self.latch.guard("freeze", closed)
    }

    /// Makes all frozen layers durable, and then lets the upper say that it stands on firm ground.
    pub(crate) fn seal(&self) -> Result<()> {
        let layers = self.layers();
        for frozen in &layers.frozen {
            crash::point("seal.before");
            self.latch.guard("seal", frozen.seal())?;
            // The files are the upper's alone from here on.
            for ino in frozen.take_left_behind() {
                frozen.files.remove(ino)?;
            }
        }
        let unfounded = layers.upper.as_ref().is_some_and(|upper| upper.unfounded.load(Ordering::Acquire));
        if unfounded {
            let mut tables = self.tables();
            let upper = self.layers().upper.clone();
            if let Some(upper) = upper
                && layers.is_upper(upper.id)
            {
                let mut commit = Commit::new();
                commit.push(Effect::Found);
                self.commit_to(&mut tables, &upper, &commit, true)?;
                upper.unfounded.store(false, Ordering::Release);
            }
        }
        Ok(())
    }
}

/// What became of an attempt to freeze.
enum Outcome {
    /// This was frozen.
    Frozen(Arc<Upper>, Carried),
    /// There is nothing to freeze.
    Unchanged,
    /// A file appeared that needs a place at once.
    NeedsUpper,
}
