//! The repository, its snapshots, and commands that have to succeed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use selvedge_store::export::{ExportOptions, SnapshotSource, export};
use selvedge_store::{Entry, ObjectId, OpenOptions, Repository};
use serde_json::Value;

use crate::model::Model;
use crate::random::Random;
use crate::sandbox::{Outcome, Sandbox};

/// How long a command may fail because somebody it needs has just died.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where in a thread the programs work.
pub(crate) const PLACE: &str = "w0";

/// What a snapshot said when it was made.
struct Kept {
    /// The digests of everything.
    root: Entry,
    model: Model,
}

/// A repository and all that is known of it.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    snapshots: Mutex<BTreeMap<String, Kept>>,
    numbers: AtomicU64,
    deaths: AtomicU64,
    failed: AtomicU64,
}

/// Fills a directory that writers work in.
fn fill(place: &Path) {
    let mut random = Random::new(1000);
    std::fs::create_dir_all(place.join("sub")).unwrap();
    for name in ["f0", "f1", "f2", "sub/f0", "sub/f3"] {
        let length = 1 + random.below(100_000);
        std::fs::write(place.join(name), random.bytes(length)).unwrap();
    }
    std::fs::hard_link(place.join("f1"), place.join("sub/f5")).unwrap();
    std::os::unix::fs::symlink("f0", place.join("l0")).unwrap();
}

impl World {
    /// With the thread `main`, of which nothing is mounted.
    pub(crate) fn new() -> Self {
        let sandbox = Sandbox::new();
        fill(&sandbox.repo().join(PLACE));
        sandbox.run(["import"]).ok();
        let snapshots = Mutex::default();
        let counter = AtomicU64::default;
        Self { sandbox, snapshots, numbers: counter(), deaths: counter(), failed: counter() }
    }

    /// A number that nobody has got before.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn count_death(&self) {
        self.deaths.fetch_add(1, Ordering::Relaxed);
    }

    /// What the mount list says of the mounts, if it can be had.
    pub(crate) fn mounts(&self) -> Option<Vec<Value>> {
        let outcome = self.sandbox.run(["--json", "list"]);
        (outcome.status.success()).then(|| outcome.document().as_array().unwrap().clone())
    }

    /// Runs a command that has to succeed. A death that it meets may be its end; then it is given again, unless
    /// `is_done` says that what it was to do has been done all the same.
    #[track_caller]
    pub(crate) fn insist(&self, words: &[&str], is_done: impl Fn() -> bool) -> Option<Outcome> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outcome = self.sandbox.run(words);
            if outcome.status.success() {
                return Some(outcome);
            }
            eprintln!("{words:?}: {}", outcome.stderr.trim_end());
            self.failed.fetch_add(1, Ordering::Relaxed);
            if is_done() {
                return None;
            }
            assert!(Instant::now() < deadline, "{words:?}: {outcome:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn repository(&self) -> Repository {
        Repository::open(&self.sandbox.repo(), &OpenOptions::default()).unwrap()
    }

    /// Notes a snapshot that has just been made, or was found to say all that its thread does.
    #[track_caller]
    pub(crate) fn keep(&self, snapshot: &str, model: &Model) {
        let id: ObjectId = snapshot.parse().unwrap();
        let root = self.repository().store().snapshot(&id).unwrap().root;
        let kept = Kept { root, model: model.canonical() };
        let mut snapshots = self.snapshots.lock().unwrap();
        let before = snapshots.entry(snapshot.to_owned()).or_insert(kept);
        assert!(before.model == model.canonical(), "{snapshot} is said to have what it has not");
    }

    /// What a snapshot has.
    pub(crate) fn model_of(&self, snapshot: &str) -> Model {
        self.snapshots.lock().unwrap()[snapshot].model.clone()
    }

    /// The others need not be there any more.
    pub(crate) fn keep_only<'a>(&self, needed: impl Iterator<Item = &'a String>) {
        let needed: BTreeSet<_> = needed.collect();
        self.snapshots.lock().unwrap().retain(|id, _| needed.contains(id));
    }

    /// The snapshot has the digest that it had, and everything that its thread had then.
    #[track_caller]
    fn check_snapshot(&self, snapshot: &str, kept: &Kept) {
        let id: ObjectId = snapshot.parse().unwrap();
        let repository = self.repository();
        assert_eq!(repository.store().snapshot(&id).unwrap().root, kept.root, "{snapshot}");
        let source = SnapshotSource::new(repository.store().clone(), &id).unwrap();
        let out = tempfile::tempdir_in(self.sandbox.root()).unwrap();
        let directory = std::fs::File::open(out.path()).unwrap().into();
        export(&source, directory, &ExportOptions { delete: false }, &mut |_| ()).unwrap();
        let found = Model::scan(&out.path().join(PLACE)).canonical();
        assert!(found == kept.model, "{snapshot} has changed: {found:?} instead of {:?}", kept.model);
    }

    /// Looks at all of them.
    #[track_caller]
    pub(crate) fn check_all_snapshots(&self) {
        for (snapshot, kept) in &*self.snapshots.lock().unwrap() {
            self.check_snapshot(snapshot, kept);
        }
    }

    /// Looks at so many of them.
    #[track_caller]
    pub(crate) fn check_some_snapshots(&self, random: &mut Random, count: usize) {
        let snapshots = self.snapshots.lock().unwrap();
        for _ in 0..count.min(snapshots.len()) {
            let (snapshot, kept) = snapshots.iter().nth(random.below(snapshots.len())).unwrap();
            self.check_snapshot(snapshot, kept);
        }
    }

    /// Fails unless enough happened to say anything.
    #[track_caller]
    pub(crate) fn tell(&self) {
        let (deaths, failed) = (self.deaths.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let snapshots = self.snapshots.lock().unwrap().len();
        eprintln!("{deaths} deaths, {snapshots} snapshots that are needed, {failed} commands given again");
        assert!(deaths > 0 && snapshots > 0, "nothing happened");
    }
}
