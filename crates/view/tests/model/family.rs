//! The threads that come from one, their models, and their snapshots.

use super::known::Known;
use super::line::Line;
use super::op::Step;
use super::support::{Base, Bench, lock};
use selvedge_store::gc::Marked;
use selvedge_store::{Entry, ObjectId};
use selvedge_view::{objects_of_layer, remove_layers, remove_unneeded_layers};
use std::collections::BTreeMap;
use std::time::Duration;

/// No more threads than this are open at a time.
const MOST: usize = 3;

/// How long others may keep objects from being removed.
const PATIENCE: Duration = Duration::from_mins(1);

/// A thread and its forks.
pub struct Family {
    /// What names of forks begin with.
    name: String,
    forks: usize,
    lines: Vec<Line>,
    /// Every snapshot, with the thread as it was then.
    snapshots: BTreeMap<ObjectId, (Entry, Known)>,
}

impl Family {
    /// With the thread `name` alone, whose tree is `base`.
    pub fn new(bench: &Bench, base: &Base, name: &str) -> Self {
        let line = Line::open(bench, base, name.parse().unwrap());
        Self { name: name.to_owned(), forks: 0, lines: vec![line], snapshots: BTreeMap::new() }
    }

    /// Does one step, and compares what it touched with its model.
    pub fn apply(&mut self, bench: &Bench, step: &Step) {
        match step {
            Step::On(at, op) => {
                let at = at % self.lines.len();
                let line = &mut self.lines[at];
                if let Some(snapshot) = line.apply(bench, op) {
                    let root = bench.repo().store().snapshot(&snapshot).unwrap().root;
                    let then = line.known().clone();
                    self.snapshots.insert(snapshot, (root, then));
                    self.check_snapshot(bench, &snapshot);
                }
                self.lines[at].check(bench);
            }
            Step::Fork(at) if self.lines.len() < MOST => {
                self.forks += 1;
                let name = format!("{}-{}", self.name, self.forks).parse().unwrap();
                let at = at % self.lines.len();
                let fork = self.lines[at].fork(bench, name);
                self.lines.push(fork);
                self.lines[at].check(bench);
            }
            Step::Delete { at, orderly } if self.lines.len() > 1 => {
                let mut line = self.lines.remove(at % self.lines.len());
                let view = line.let_go();
                if *orderly {
                    view.close().unwrap();
                } else {
                    drop(view);
                }
                delete(bench, &line);
                self.check(bench);
            }
            Step::Fork(_) | Step::Delete { .. } => {}
            Step::Gc => self.collect(bench),
            Step::Kill => unreachable!("others may be at work"),
        }
    }

    /// All views end as by kill -9 at one instant, and are opened again.
    pub fn kill(&mut self, bench: &mut Bench) {
        let before: Vec<_> = self.lines.iter().map(Line::attrs_that_a_copy_keeps).collect();
        let views = self.lines.iter_mut().map(Line::let_go).collect();
        bench.kill_all(views);
        for (line, before) in self.lines.iter_mut().zip(before) {
            line.reopen(bench);
            assert_eq!(before, line.attrs_that_a_copy_keeps());
        }
        self.check(bench);
    }

    /// Removes what nothing needs: what is needed is as it was, and snapshots that no thread comes from are gone.
    fn collect(&mut self, bench: &Bench) {
        let repo = bench.repo();
        let layer_objects = |layer| objects_of_layer(&repo, layer).map_err(Into::into);
        Marked::mark(&repo, &layer_objects).unwrap().sweep(PATIENCE, &mut |_| ()).unwrap();
        remove_unneeded_layers(&repo);
        let (needed, unneeded) =
            std::mem::take(&mut self.snapshots).into_iter().partition(|(id, _)| self.is_needed(id));
        self.snapshots = needed;
        let unneeded: BTreeMap<_, _> = unneeded;
        for snapshot in unneeded.keys() {
            assert!(repo.store().snapshot(snapshot).is_err(), "{snapshot} is left");
        }
        self.check(bench);
    }

    /// Whether a thread comes from the snapshot. Others may remove it otherwise.
    fn is_needed(&self, snapshot: &ObjectId) -> bool {
        self.lines.iter().any(|line| line.history.contains(snapshot))
    }

    /// Closes all views in order, and looks at everything once more.
    pub fn end(mut self, bench: &Bench) {
        for line in &mut self.lines {
            line.close_and_open(bench, |_| ());
        }
        self.collect(bench);
        for line in &mut self.lines {
            line.let_go().close().unwrap();
        }
        for snapshot in self.snapshots.keys() {
            self.check_snapshot(bench, snapshot);
        }
    }

    fn check(&mut self, bench: &Bench) {
        for line in &mut self.lines {
            line.check(bench);
        }
        for snapshot in self.snapshots.keys().filter(|snapshot| self.is_needed(snapshot)) {
            self.check_snapshot(bench, snapshot);
        }
    }

    /// The snapshot has the digest that it had, and what the thread had.
    fn check_snapshot(&self, bench: &Bench, snapshot: &ObjectId) {
        let (root, then) = &self.snapshots[snapshot];
        assert_eq!(*root, bench.repo().store().snapshot(snapshot).unwrap().root);
        let view = bench.open_snapshot(snapshot);
        assert_eq!(then.compare(bench, &view), [], "numbers that were never seen before");
    }
}

fn delete(bench: &Bench, line: &Line) {
    let repo = bench.repo();
    let thread = repo.refs().thread(&line.name).unwrap();
    let lock = lock(&repo, &thread);
    repo.refs().delete_thread(&thread).unwrap();
    remove_layers(&repo, &thread);
    lock.remove(&repo, &thread.id).unwrap();
}
