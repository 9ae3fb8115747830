//! Making one frozen layer of many, so that a lookup that misses does not pass through ever more of them.

use crate::build::{Built, Known, Watch, put_files};
use crate::catalog::NameRow;
use crate::commit::{Commit, Effect};
use crate::crash;
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode};
use crate::layers::{Frozen, Upper};
use crate::snapshot::Covered;
use crate::state::State;
use crate::tables::Node;
use crate::view::{View, ViewOptions};
use foldhash::HashMap;
use selvedge_store::{Content, Ino, LayerId};
use std::sync::{Arc, TryLockError};

impl State {
    /// Makes one layer of the thread's frozen layers when there are many. What it says is what they say together; the
    /// bytes of files go to the store, so the new layer has no working files and shares what other threads have.
    pub(crate) fn merge_if_deep(&self) -> Result<()> {
        let Some(thread) = self.thread().clone() else { return Ok(()) };
        // A snapshot that is being made, or was made just now, lets the layers go itself.
        let snapshotting = match self.snapshotting.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(()),
            other => other,
        };
        if thread.layers.len() <= self.deepest || self.leaving().is_due() {
            return Ok(());
        }
        let options = ViewOptions { boot_id: Some(self.boot_id.clone()), ..ViewOptions::default() };
        let view = View::open_frozen(Arc::clone(&self.repo), &thread.snapshot, &thread.layers, options)?;
        let _objects = self.hold_objects()?;
        let is_over = || self.work.is_stopped();
        let merged = merge(view.state(), Watch { progress: &|_| {}, is_over: &is_over });
        if is_over() {
            // The next to open the thread does it.
            return Ok(());
        }
        let (commit, built) = merged?;
        crash::point("merge.read");
        let id = self.write_layer(&commit)?;
        let (frozen, catalog) =
            Frozen::open(&self.repo, id, &self.boot_id)?.ok_or(ViewError::LayerLost { layer: id })?;
        crash::point("merge.written");
        let layers = thread.layers;
        let covered = Covered { snapshot: thread.snapshot, layers, built, by: Some((frozen, catalog)) };
        let merged = self.collapse(covered, &mut self.leaving())?;
        drop(snapshotting);
        if !merged {
            self.remove_layer(id);
        }
        Ok(())
    }

    /// Makes a frozen layer that says what `commit` does, durable.
    fn write_layer(&self, commit: &Commit) -> Result<LayerId> {
        let (upper, mut catalog) = Upper::make(&self.repo, &self.boot_id, false)?;
        upper.reserve.release();
        catalog.commit(commit)?;
        catalog.end_use()?;
        // Closing brings everything into one file and syncs it.
        catalog.close_whole()?;
        Ok(upper.id)
    }
}

/// Everything that the layers of `state`, a view of frozen layers alone, say, and what their files are in the store.
fn merge(state: &State, watch: Watch<'_>) -> Result<(Commit, Built)> {
    let (numbers, names) = state.tables().merged()?;
    let mut nodes = Vec::with_capacity(numbers.len());
    for ino in numbers {
        let node = state.node(ino)?;
        // One without a name is nobody's: where it is open still, it lies in an upper.
        if node.inode.nlink > 0 {
            nodes.push(node);
        }
    }
    let files = put_files(state, nodes.iter(), &Known::default(), watch)?;
    state.repo.store().sync()?;
    let mut commit = Commit::new();
    for node in &nodes {
        commit.put(row(state, node, &files)?);
    }
    for (parent, name, row) in names {
        commit.push(match row {
            NameRow::Node { ino, kind } => Effect::PutName { parent, name, ino, kind },
            NameRow::Whiteout => Effect::Whiteout { parent, name },
        });
    }
    Ok((commit, Built::of_files(state, files)))
}

/// The node's row with its bytes in the store.
fn row(state: &State, node: &Node, files: &HashMap<Ino, Content>) -> Result<Inode> {
    let row = Inode { fallback: None, ..(*node.inode).clone() };
    let (Some(_), Some(Content::Regular { blob, size, holes })) = (row.body.layer(), files.get(&row.ino))
    else {
        return Ok(row);
    };
    let attr = state.attr(node)?;
    let body = Body::Blob { id: *blob, size: *size, holes: *holes };
    Ok(Inode { mtime: attr.mtime, ctime: attr.ctime, host_ctime: None, body, ..row })
}
