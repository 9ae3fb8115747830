//! Doing without frozen layers that a snapshot has.

use crate::build::Known;
use crate::catalog::Catalog;
use crate::commit::{Commit, Effect};
use crate::crash;
use crate::database::Wanted;
use crate::error::Result;
use crate::inode::{Body, Inode};
use crate::layers::{Layers, Upper, sweep};
use crate::snapshot::Covered;
use crate::state::State;
use crate::tables::Tables;
use selvedge_store::{Content, FileKind, LayerId, NewState, ObjectId};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Layers that a snapshot has, on their way out.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// In use still, since then.
    covered: Option<(Instant, Covered)>,
    /// Asked by nobody new since then.
    retired: Option<(Instant, Retired)>,
}

/// The catalogs of layers that are not used any more: open, they keep others from removing the layers.
type Retired = Vec<(LayerId, Catalog)>;

impl Leaving {
    /// Whether layers are about to go by themselves.
    pub(crate) fn is_due(&self) -> bool {
        self.covered.is_some()
    }
}

impl State {
    /// Takes note of layers that a snapshot has.
    pub(crate) fn note_covered(&self, covered: Covered) {
        self.leaving().covered = Some((Instant::now(), covered));
    }

    /// Does what is due: first without the layers, then away with them. Tells when there is more to do.
    pub(crate) fn collapse_when_due(&self) -> Result<Option<Duration>> {
        let mut leaving = self.leaving();
        let wait = self.answered_after;
        let left = |since: Instant| wait.checked_sub(since.elapsed()).filter(|left| !left.is_zero());
        if let Some((since, _)) = &leaving.covered {
            if let Some(left) = left(*since) {
                return Ok(Some(left));
            }
            if let Some((_, covered)) = leaving.covered.take() {
                self.collapse(covered, &mut leaving)?;
            }
        }
        let Some((since, _)) = &leaving.retired else { return Ok(None) };
        if let Some(left) = left(*since) {
            return Ok(Some(left));
        }
        self.let_go_of_retired(&mut leaving);
        Ok(None)
    }

    /// Does all of it now, for a view that nobody asks anything any more.
    pub(crate) fn collapse_now(&self) -> Result<()> {
        let mut leaving = self.leaving();
        if let Some((_, covered)) = leaving.covered.take() {
            self.collapse(covered, &mut leaving)?;
        }
        self.let_go_of_retired(&mut leaving);
        Ok(())
    }

    /// Whether a snapshot has all that these layers say over it.
    pub(crate) fn is_covered(&self, snapshot: ObjectId, layers: &[LayerId]) -> bool {
        let leaving = self.leaving();
        let covered = leaving.covered.as_ref();
        covered.is_some_and(|(_, covered)| covered.snapshot == snapshot && covered.layers == layers)
    }

    /// The files that the last snapshot has read, if their layers may be in the next one.
    pub(crate) fn known(&self) -> Known {
        let leaving = self.leaving();
        let covered = leaving.covered.as_ref().map(|(_, covered)| covered);
        covered.map_or_else(Known::default, |covered| Known {
            layers: covered.layers.clone(),
            files: covered.built.files.clone(),
        })
    }

    pub(crate) fn leaving(&self) -> MutexGuard<'_, Leaving> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands the upper on what covers its layers, instead of them. Tells whether it is done: if the base is to have
    /// them, not when other layers were frozen above them, since what those say of directories is true over the old base
    /// only.
    ///
    /// The upper's rows are rewritten first, so that they are true over both; then the thread's reference lets go.
    pub(crate) fn collapse(&self, covered: Covered, leaving: &mut Leaving) -> Result<bool> {
        let mut thread = self.thread();
        let Some(thread) = thread.as_mut() else { return Ok(false) };
        let Some(above) = thread.layers.strip_prefix(&*covered.layers) else { return Ok(false) };
        if thread.snapshot != covered.snapshot || (covered.by.is_none() && !above.is_empty()) {
            return Ok(false);
        }
        let above = above.to_vec();
        self.let_go_of_retired(leaving);
        self.check_writable()?;
        let mut tables = self.tables();
        let mut layers = self.shut_gate();
        if let (Some(upper), Some(catalog)) = (layers.upper.clone(), tables.upper()) {
            let mut commit = rewritten(&upper, catalog, &layers, &covered)?;
            hold_nameless(&tables, &upper, catalog)?;
            commit.push(Effect::Found);
            tables.commit(&commit)?;
            upper.log.committed();
            self.latch.guard("collapse", upper.files.sync_names())?;
            self.latch.guard("collapse", upper.log.sync())?;
            upper.unfounded.store(false, Ordering::Release);
        }
        crash::point("collapse.before-ref");
        let Covered { snapshot, layers: replaced, built, by } = covered;
        let left = by.iter().map(|(frozen, _)| frozen.id).chain(above).collect();
        let new = NewState { snapshot: thread.snapshot, layers: left, upper: thread.upper };
        *thread = self.repo.refs().update_thread(thread, &new)?;
        crash::point("collapse.after-ref");
        // From here on the reference and what is in memory must not part.
        let (base, merged) = if let Some((frozen, catalog)) = by {
            (Arc::clone(&layers.base), Some((Arc::new(frozen), catalog)))
        } else {
            let spoken_of = &built.spoken_of.directories;
            let base = layers.base.followed_by(&snapshot, spoken_of, &built.trees, &built.parents);
            (Arc::new(self.latch.guard("collapse", base)?), None)
        };
        let (retired, above) = layers.frozen.split_at(replaced.len().min(layers.frozen.len()));
        let frozen = merged.iter().map(|(frozen, _)| frozen).chain(above).map(Arc::clone).collect();
        let merged = merged.map(|(frozen, catalog)| (frozen.id, catalog));
        leaving.retired = Some((Instant::now(), tables.replace_frozen(replaced.len(), merged)));
        *layers = Arc::new(Layers { base, frozen, retired: retired.to_vec(), upper: layers.upper.clone() });
        Ok(true)
    }

    /// Closes layers that are not used any more, and removes those that no thread refers to. The caller holds none of
    /// the locks that a change takes.
    fn let_go_of_retired(&self, leaving: &mut Leaving) {
        let Some((_, catalogs)) = leaving.retired.take() else { return };
        let ids: Vec<LayerId> = catalogs.iter().map(|(id, _)| *id).collect();
        drop(catalogs);
        let mut layers = self.shut_gate();
        *layers = Arc::new(Layers {
            base: Arc::clone(&layers.base),
            frozen: layers.frozen.clone(),
            retired: Vec::new(),
            upper: layers.upper.clone(),
        });
        drop(layers);
        sweep(&self.repo, &ids);
    }
}

/// The upper's rows that speak of covered layers, saying the same over the snapshot. A file that had lost its name
/// when the last of them was frozen is not in the snapshot: the upper gets a copy, since other threads may share the
/// layer that has its bytes, and know it by a name.
fn rewritten(upper: &Upper, catalog: &Catalog, layers: &Layers, covered: &Covered) -> Result<Commit> {
    let mut commit = Commit::new();
    for row in catalog.inodes(Wanted::OnOthers)? {
        let mut body = over_snapshot(&row, &row.body, covered);
        if let Some(layer) = body.layer()
            && covered.layers.contains(&layer)
            && let Some(files) = layers.files(layer)
        {
            upper.files.copy_from(files, row.ino)?;
            body = body.in_layer(upper.id);
        }
        let fallback = row.fallback.as_ref().map(|fallback| over_snapshot(&row, fallback, covered));
        if body != row.body || fallback != row.fallback {
            commit.put(Inode { body, fallback, ..row });
        }
    }
    Ok(commit)
}

/// Keeps what the store has of files without a name: the layers that go may have been all that named it.
fn hold_nameless(tables: &Tables, upper: &Upper, catalog: &Catalog) -> Result<()> {
    for ino in tables.orphans() {
        if let Some(row) = catalog.inode(ino)? {
            upper.held.add(&row.body)?;
        }
    }
    Ok(())
}

fn over_snapshot(row: &Inode, body: &Body, Covered { layers, built, .. }: &Covered) -> Body {
    match (body, body.layer()) {
        (Body::None | Body::Tree { .. }, _) if row.kind == FileKind::Directory => {
            built.trees.get(&row.ino).map_or_else(|| body.clone(), |&id| Body::Tree { id })
        }
        (_, Some(layer)) if layers.contains(&layer) => match built.files.get(&row.ino) {
            Some(Content::Regular { blob, size, holes }) => {
                Body::Blob { id: *blob, size: *size, holes: *holes }
            }
            _ => body.clone(),
        },
        _ => body.clone(),
    }
}
