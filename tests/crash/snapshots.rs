//! The worker dies at every named point of a freeze, of a snapshot, and of what becomes of layers afterwards: nothing
//! acknowledged is lost, nothing half done is seen, and the next snapshot is as if nothing had been.

use std::thread::sleep;
use std::time::{Duration, Instant};

use selvedge_store::export::{ExportOptions, SnapshotSource, export};
use selvedge_store::{ObjectId, OpenOptions, Repository, ThreadRef};
use selvedge_supervisor::{CallError, ExitStatus};
use selvedge_test_support::{Mounted, Repo, THREAD};
use selvedge_worker_proto::WirePath;

use crate::scene::Scene;

/// What the worker answers: the snapshot that it made, if that was asked for.
type Answer = Result<Option<ObjectId>, CallError>;

/// How long a snapshot may take, and the worker to come by its point.
const SOON: Duration = Duration::from_mins(1);

fn repository(repo: &Repo) -> Repository {
    Repository::open(&repo.path(), &OpenOptions::default()).unwrap()
}

fn thread(repo: &Repo) -> ThreadRef {
    repository(repo).refs().thread(&THREAD.parse().unwrap()).unwrap()
}

/// Asks for one thing after another until the worker dies of it; tells the snapshots that were made.
fn ask_until_death(mount: &Mounted, ask: impl Fn(&Mounted) -> Answer) -> Vec<ObjectId> {
    let deadline = Instant::now() + SOON;
    let mut made = Vec::new();
    while let Ok(snapshot) = ask(mount) {
        assert!(Instant::now() < deadline, "the worker does not come by its point");
        made.extend(snapshot);
        sleep(Duration::from_millis(50));
    }
    made
}

fn snapshot(mount: &Mounted) -> Answer {
    let done = mount.snapshot(WirePath::from(""), SOON, &mut |_| ())?;
    Ok(Some(done.snapshot.parse().unwrap()))
}

fn freeze(mount: &Mounted) -> Answer {
    mount.freeze(SOON).map(|()| None)
}

/// Everything that a snapshot names is there, as its names say.
fn assert_whole(repo: &Repo, snapshot: &ObjectId) {
    let source = SnapshotSource::new(repository(repo).store().clone(), snapshot).unwrap();
    let out = tempfile::tempdir().unwrap();
    let directory = std::fs::File::open(out.path()).unwrap().into();
    export(&source, directory, &ExportOptions { delete: false }, &mut |_| ()).unwrap();
}

fn die_at(point: &str, seed: u64, ask: impl Fn(&Mounted) -> Answer) {
    let mut scene = Scene::new(2);
    let mount = scene.mounting().env("SELVEDGE_FUSE_WORKER_CRASH_AT", point).start();
    let writers = scene.writers(mount.path(), seed);
    writers.wait_for(50);
    let made = ask_until_death(&mount, ask);
    let known = writers.ended();
    Scene::assert_death(&mount, ExitStatus::Signaled { signal: libc::SIGABRT, core: false });
    drop(mount);
    for snapshot in made.iter().chain([&thread(&scene.repo).snapshot]) {
        assert_whole(&scene.repo, snapshot);
    }
    scene.assert_kept(&known);
    let mount = scene.mounting().start();
    let last = snapshot(&mount).unwrap().expect("a snapshot");
    mount.stop();
    assert_whole(&scene.repo, &last);
    let thread = thread(&scene.repo);
    assert_eq!((thread.snapshot, thread.layers, thread.upper), (last, vec![], None), "{point}");
}

/// The named points that begin with one of `prefixes`.
fn points(prefixes: &'static [&str]) -> impl Iterator<Item = (u64, &'static str)> {
    let points = selvedge_view::crash::POINTS.iter().copied();
    (0..).zip(points.filter(|point| prefixes.iter().any(|prefix| point.starts_with(prefix))))
}

#[test]
fn nothing_is_lost_or_half_done_when_the_worker_dies_as_it_freezes_the_thread() {
    for (seed, point) in points(&["freeze.", "seal.", "journal.before-remove"]) {
        die_at(point, seed, snapshot);
    }
}

#[test]
fn nothing_is_lost_or_half_done_when_the_worker_dies_as_it_makes_a_snapshot() {
    for (seed, point) in points(&["snapshot."]) {
        die_at(point, seed, snapshot);
    }
}

#[test]
fn nothing_is_lost_or_half_done_when_the_worker_dies_as_it_does_without_layers() {
    // Many frozen layers are made one at once; those that a snapshot has go by the same steps, later.
    for (seed, point) in points(&["merge.", "collapse."]) {
        die_at(point, seed, freeze);
    }
}
