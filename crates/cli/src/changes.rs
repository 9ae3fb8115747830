//! Changes between two trees as commands show them.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use selvedge_mountpoint::escape_for_print;
use selvedge_store::compare::{Change, Options, PathFilter, Side, SnapshotSide, compare, differ};
use selvedge_store::{LayerId, ObjectId, Repository, ThreadRef, ancestors};
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

/// Whether a thread has changes since its snapshot.
pub fn has_changes(context: &Context, repository: &Repository, thread: &ThreadRef) -> bool {
    Dirtiness::new(context, repository).of(thread)
}

/// Tells of threads of one repository whether they have changes since their snapshots.
pub struct Dirtiness<'a> {
    context: &'a Context,
    repository: &'a Repository,
    /// A view keeps its repository for itself; all views share this one.
    own: OnceCell<Arc<Repository>>,
    /// Forks are made of the same layers, which never change.
    known: RefCell<HashMap<(ObjectId, Vec<LayerId>), bool>>,
}

impl<'a> Dirtiness<'a> {
    /// Of the threads of `repository`.
    pub fn new(context: &'a Context, repository: &'a Repository) -> Self {
        Self { context, repository, own: OnceCell::new(), known: RefCell::default() }
    }

    /// Whether the thread has changes. An upper is made by the first change after a snapshot; of frozen layers the
    /// snapshot may have all, since they stay for some seconds after it was made of them, and then nothing in them
    /// differs from it. Nobody's mount is asked. What cannot be read counts as changed.
    pub fn of(&self, thread: &ThreadRef) -> bool {
        if thread.upper.is_some() || thread.layers.is_empty() {
            return thread.upper.is_some();
        }
        let key = (thread.snapshot, thread.layers.clone());
        if let Some(&known) = self.known.borrow().get(&key) {
            return known;
        }
        match self.frozen_differ(thread) {
            Ok(differ) => {
                self.known.borrow_mut().insert(key, differ);
                differ
            }
            Err(error) => {
                // A mount lets go of its layers once they are in a snapshot.
                let gone = |now: ThreadRef| now.layers != thread.layers && now.layers.is_empty();
                tracing::debug!("cannot tell what thread {} has changed: {error}", thread.name);
                !self.repository.refs().thread_again(thread).is_ok_and(gone)
            }
        }
    }

    fn frozen_differ(&self, thread: &ThreadRef) -> Result<bool> {
        let (snapshot, layers) = (&thread.snapshot, &thread.layers);
        let own = if let Some(own) = self.own.get() {
            own
        } else {
            let own = self.context.open_repository(self.repository.dir())?;
            self.own.get_or_init(|| Arc::new(own))
        };
        let view = View::open_frozen(Arc::clone(own), snapshot, layers, ViewOptions::default())?;
        let frozen = ViewSide::new(view)?;
        let snapshot = SnapshotSide::new(self.repository.store().clone(), snapshot)?;
        let options = Options { same_numbers: true, ..Options::default() };
        Ok(differ(&snapshot, &frozen, &options)?)
    }
}

/// A path for people; the root is a dot.
pub fn show_path(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { escape_for_print(path) }
}
