//! Changes between two trees as commands show them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use selvedge_mountpoint::escape_for_print;
use selvedge_store::compare::{Change, Options, PathFilter, Side, SnapshotSide, compare};
use selvedge_store::{ObjectId, Repository, ThreadRef, ancestors};
use selvedge_view::{View, ViewOptions, ViewSide};
use selvedge_worker_proto::WirePath;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::side;
use crate::target::Target;

/// A path that differs, under `--json`.
#[derive(Debug, Serialize)]
pub struct ChangeDocument {
    status: &'static str,
    path: WirePath,
    /// Where it was, if it was renamed.
    from: Option<WirePath>,
}

/// Two trees and what differs between them.
pub struct Compared {
    /// The tree that is gone from.
    pub old: Box<dyn Side>,
    /// The tree that is come to.
    pub new: Box<dyn Side>,
    /// What differs.
    pub changes: Vec<Change>,
}

impl Compared {
    /// Compares two targets, both as they are now.
    pub fn new(
        context: &Context,
        repository: &Repository,
        (old, new): (&Target, &Target),
        paths: PathFilter,
    ) -> Result<Self> {
        let (before, after) = if old == new {
            // One thread can be opened once only, and does not differ from itself.
            let snapshot = Target::Snapshot(old.snapshot());
            (side::open(context, repository, &snapshot)?, side::open(context, repository, &snapshot)?)
        } else {
            (side::open(context, repository, old)?, side::open(context, repository, new)?)
        };
        let same_numbers = are_related(repository, old.snapshot(), new.snapshot())?;
        let changes = compare(&*before, &*after, &Options { same_numbers, paths })?;
        Ok(Self { old: before, new: after, changes })
    }

    /// All changes under `--json`.
    pub fn documents(&self) -> Vec<ChangeDocument> {
        let path = |path: &[u8]| match path {
            b"" => WirePath::from("."),
            path => WirePath::from(OsString::from_vec(path.to_vec())),
        };
        let document = |change: &Change| ChangeDocument {
            status: change.kind.letter(),
            path: path(&change.path),
            from: change.from.as_deref().map(path),
        };
        self.changes.iter().map(document).collect()
    }
}

/// Whether one came from the other, or both from a third: then files with one number are one file.
fn are_related(repository: &Repository, one: ObjectId, other: ObjectId) -> Result<bool> {
    if one == other {
        return Ok(true);
    }
    let others: HashSet<ObjectId> = ancestors(repository.store(), [other])?;
    Ok(ancestors(repository.store(), [one])?.iter().any(|id| others.contains(id)))
}

/// Whether a thread has changes since its snapshot. An upper is made by the first change after a snapshot; of frozen
/// layers the snapshot may have all, since they stay for some seconds after it was made of them, and then nothing in
/// them differs from it. Nobody's mount is asked. What cannot be read counts as changed.
pub fn has_changes(context: &Context, repository: &Repository, thread: &ThreadRef) -> bool {
    if thread.upper.is_some() || thread.layers.is_empty() {
        return thread.upper.is_some();
    }
    frozen_differ(context, repository, thread).unwrap_or_else(|error| {
        // A mount lets go of its layers once they are in a snapshot.
        let gone = |now: ThreadRef| now.layers != thread.layers && now.layers.is_empty();
        tracing::debug!("cannot tell what thread {} has changed: {error}", thread.name);
        !repository.refs().thread_again(thread).is_ok_and(gone)
    })
}

fn frozen_differ(context: &Context, repository: &Repository, thread: &ThreadRef) -> Result<bool> {
    let (snapshot, layers) = (&thread.snapshot, &thread.layers);
    // A view keeps its repository for itself.
    let own = context.open_repository(repository.dir())?;
    let frozen = ViewSide::new(View::open_frozen(own, snapshot, layers, ViewOptions::default())?)?;
    let snapshot = SnapshotSide::new(repository.store().clone(), snapshot)?;
    let options = Options { same_numbers: true, ..Options::default() };
    Ok(!compare(&snapshot, &frozen, &options)?.is_empty())
}

/// A path for people; the root is a dot.
pub fn show_path(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { escape_for_print(path) }
}
