//! One thread and its model.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::json;

use crate::model::Model;
use crate::random::Random;
use crate::world::{PLACE, World};
use crate::writer::{Knowledge, Writers};

/// What is done to a thread in a round.
const STEPS: usize = 8;

/// The most changes that are made in one go.
const CHANGES: usize = 40;

/// Numbers and times of everything: number, modification and change, with nanoseconds.
type Stamps = BTreeMap<PathBuf, (u64, i64, i64, i64, i64)>;

/// A thread.
pub(crate) struct Line {
    name: String,
    /// Where it is mounted, when it is.
    at: PathBuf,
    is_mounted: bool,
    known: Knowledge,
    /// What it showed when it was last mounted, or what that from which it came showed.
    stamps: Option<Stamps>,
    /// Every snapshot from which it comes, as far as it was made here.
    history: Vec<String>,
    random: Random,
}

/// What stat(2) says of everything beneath `directory`.
fn stamps(directory: &Path) -> Stamps {
    let mut found = Stamps::new();
    let mut unread = vec![directory.to_owned()];
    while let Some(path) = unread.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            unread.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        found.insert(path.strip_prefix(directory).unwrap().to_owned(), stamp);
    }
    found
}

impl Line {
    /// The thread `main`.
    pub(crate) fn first(world: &World, seed: u64) -> Self {
        let known = Knowledge::of(Model::scan(&world.sandbox.repo().join(PLACE)));
        Self::new(world, "main".to_owned(), known, Random::new(seed.wrapping_add(7)))
    }

    fn new(world: &World, name: String, known: Knowledge, random: Random) -> Self {
        let at = world.sandbox.path(format!("on-{name}"));
        Self { name, at, is_mounted: false, known, stamps: None, history: Vec::new(), random }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The snapshots that it needs.
    pub(crate) fn history(&self) -> impl Iterator<Item = &String> {
        self.history.iter()
    }

    fn place(&self) -> PathBuf {
        self.at.join(PLACE)
    }

    /// Has a random life for a while.
    pub(crate) fn live(&mut self, world: &World, newborn: &Mutex<Vec<Self>>) {
        for _ in 0..STEPS {
            match self.random.below(16) {
                0..=7 => self.write(world),
                8..=10 => self.snapshot(world),
                11..=12 => self.remount(world),
                13 => self.unmount(world),
                14 => newborn.lock().unwrap().push(self.fork(world)),
                _ => newborn.lock().unwrap().extend(self.fork_of_a_snapshot(world)),
            }
        }
    }

    fn mount(&mut self, world: &World) {
        if self.is_mounted {
            return;
        }
        let at = self.at.to_str().unwrap();
        // A service that was started anew may have made the mount that the one before was asked for.
        let is_there = || {
            let mounts = world.mounts().unwrap_or_default();
            mounts.iter().any(|mount| mount["mountpoint"] == json!(at) && mount["state"] == json!("ready"))
        };
        world.insist(&["mount", &self.name, at], is_there);
        self.is_mounted = true;
        if let Some(before) = self.stamps.take() {
            assert_eq!(stamps(&self.place()), before, "{}: numbers and times", self.name);
        }
    }

    pub(crate) fn unmount(&mut self, world: &World) {
        if self.is_mounted {
            self.stamps = Some(stamps(&self.place()));
            world.insist(&["unmount", self.at.to_str().unwrap()], || false);
            self.is_mounted = false;
        }
    }

    fn remount(&mut self, world: &World) {
        self.unmount(world);
        self.mount(world);
        self.check(world);
    }

    /// Starts a program that makes changes.
    pub(crate) fn writers(&mut self, world: &World) -> Writers {
        self.mount(world);
        let seed = self.random.below(usize::MAX) as u64;
        Writers::start(&self.at, vec![self.known.clone()], seed)
    }

    /// What such a program knew at its end.
    pub(crate) fn learn(&mut self, known: Vec<Knowledge>) {
        self.known = known.into_iter().next().expect("one writer");
    }

    /// Everything was killed while a program made changes: the thread has what was acknowledged.
    pub(crate) fn outlives(&mut self) {
        self.known = self.known.check(&Model::scan(&self.place()), &self.name);
    }

    fn write(&mut self, world: &World) {
        let changes = 1 + self.random.below(CHANGES);
        let writers = self.writers(world);
        writers.wait_for(changes as u64);
        self.learn(writers.stop());
    }

    fn snapshot(&mut self, world: &World) {
        let done = world.insist(&["--json", "snapshot", &self.name], || false).unwrap().document();
        let snapshot = done["snapshot"].as_str().unwrap().to_owned();
        world.keep(&snapshot, self.known.model());
        self.history.push(snapshot);
        let status = world.insist(&["--json", "status", &self.name], || false).unwrap().document();
        assert_eq!(status, json!([]), "{}: right after a snapshot", self.name);
    }

    /// A new thread, which has what this one has.
    pub(crate) fn fork(&mut self, world: &World) -> Self {
        let before = self.is_mounted.then(|| stamps(&self.place()));
        let mut fork = self.fork_of(world, &self.name.clone(), self.known.model().clone());
        if let Some(before) = &before {
            assert_eq!(stamps(&self.place()), *before, "{}: numbers and times", self.name);
        }
        fork.history.clone_from(&self.history);
        fork.stamps = before.or_else(|| self.stamps.clone());
        fork
    }

    /// A new thread, which has what one of this one's snapshots has, if there is any.
    fn fork_of_a_snapshot(&mut self, world: &World) -> Option<Self> {
        let at = self.random.below(self.history.len());
        let snapshot = self.history.get(at)?.clone();
        let mut fork = self.fork_of(world, &snapshot, world.model_of(&snapshot));
        fork.history = self.history[..=at].to_vec();
        Some(fork)
    }

    fn fork_of(&mut self, world: &World, from: &str, model: Model) -> Self {
        let number = world.number();
        let name = format!("t{number}");
        let is_made = || world.sandbox.run(["thread", "show", &name]).status.success();
        world.insist(&["thread", "create", &name, "--from", from], is_made);
        let random = Random::new(self.random.below(usize::MAX) as u64);
        Self::new(world, name, Knowledge::of(model), random)
    }

    /// Fails unless the thread is what its model is, as its mount shows it or as it is exported.
    #[track_caller]
    pub(crate) fn check(&mut self, world: &World) {
        let found = if self.is_mounted {
            Model::scan(&self.place())
        } else {
            let out = world.sandbox.path(format!("out-{}", world.number()));
            world.insist(&["export", &self.name, out.to_str().unwrap(), "--delete"], || false);
            let found = Model::scan(&out.join(PLACE));
            std::fs::remove_dir_all(&out).unwrap();
            found
        };
        self.known = self.known.check(&found, &self.name);
    }

    pub(crate) fn delete(mut self, world: &World) {
        self.unmount(world);
        let is_gone = || world.sandbox.run(["thread", "show", &self.name]).code() == 3;
        world.insist(&["thread", "delete", &self.name, "--force"], is_gone);
    }
}
