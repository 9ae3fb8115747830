//! The power goes: what was synced is there, and the rest is a state that once was.
//!
//! The repository lies on an ext4 file system whose image is cloned at random instants while programs write to the
//! mount. A clone is what a disk holds when its machine loses power at that instant: no page that ext4 or a worker
//! had yet to write is in it. Each clone is mounted, the thread opened as after a reboot, and held against what the
//! programs knew to be durable before the cut and what they had begun after it.
//!
//! Needs root, loop devices and XFS, which alone clones an image in one piece.

#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

mod disk;
mod large;
mod names;
mod replace;
mod seed;
mod stream;
mod touch;
mod writer;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use disk::{Machine, Power};
use seed::Seed;
use selvedge_test_support::{Mounted, Mounting, Repo, assert_inside};
use selvedge_worker_proto::WirePath;
use writer::{Ledger, Writer};

const WORKER: &str = env!("CARGO_BIN_EXE_selvedge-fuse-worker");

/// Cuts in one run, unless `SELVEDGE_TEST_CUTS` says how many.
const CUTS: usize = 6;

/// Runs until the cuts are seen to take something away.
const ROUNDS: usize = 4;

/// Under this name of a boot the thread is written, and under the other it is opened again.
const BOOT_ID: &str = "SELVEDGE_TEST_BOOT_ID";

fn writers(meanwhile: Meanwhile) -> Vec<Box<dyn Writer>> {
    if meanwhile == Meanwhile::Wholes {
        return vec![Box::new(large::Large::new("large0", 6)), Box::new(large::Large::new("large1", 7))];
    }
    vec![
        Box::new(names::Names::new("names0", 1)),
        Box::new(names::Names::new("names1", 2)),
        Box::new(replace::Replace::new("replace", 3)),
        Box::new(stream::Stream::new("stream", 4)),
        Box::new(touch::Touch::new("touch", 5)),
    ]
}

/// What is done to the thread while programs write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// Its upper is frozen again and again, as a fork does; now and then it becomes a snapshot.
    Layers,
    /// Large files become whole, and with a snapshot now and then are changed in part again.
    Wholes,
}

/// A clone of the disk, and what each writer knew around it.
struct Cut {
    power: Power,
    /// What was durable before.
    least: Vec<Ledger>,
    /// What had begun afterwards.
    most: Vec<Ledger>,
}

/// Whether a writer has done enough for a cut to prove something of it.
fn is_at_work(done: &Ledger) -> bool {
    done.begun > 20 && done.durable > 0
}

/// Writes to a mount and cuts the power again and again.
fn cut_while_writing(
    machine: &Machine,
    repo: &Repo,
    mountpoint: &Path,
    count: usize,
    meanwhile: Meanwhile,
) -> Vec<Cut> {
    let mount = Mounting::new(WORKER, &repo.path(), mountpoint).env(BOOT_ID, "before").start();
    assert_inside(mount.path());
    let writers = writers(meanwhile);
    let ledgers: Vec<_> = writers.iter().map(|_| writer::Shared::default()).collect();
    let mut seed = Seed::new(std::process::id().into());
    let cuts = thread::scope(|scope| {
        for (writer, ledger) in writers.into_iter().zip(&ledgers) {
            let root = mount.path();
            scope.spawn(move || writer.write(root, ledger));
        }
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Layers => drop(scope.spawn(|| make_layers(&mount, &ledgers[0]))),
            Meanwhile::Wholes => drop(scope.spawn(|| {
                while ledgers[0].goes_on() {
                    thread::sleep(Duration::from_millis(1800));
                    snapshot(&mount);
                }
            })),
        }
        let look = || ledgers.iter().map(writer::Shared::look).collect::<Vec<_>>();
        // A disk may be slow: the cuts are to fall among work.
        let deadline = Instant::now() + Duration::from_mins(2);
        while Instant::now() < deadline && look().iter().any(|done| !is_at_work(done)) {
            thread::sleep(Duration::from_millis(50));
        }
        let cuts: Vec<_> = (0..count)
            .map(|at| {
                thread::sleep(Duration::from_millis(200 + seed.below(900)));
                let least = look();
                let power = machine.cut(at);
                Cut { power, least, most: look() }
            })
            .collect();
        for ledger in &ledgers {
            ledger.stop();
        }
        cuts
    });
    for ledger in &ledgers {
        let end = ledger.look();
        assert!(is_at_work(&end), "a writer did too little: {end:?}");
    }
    let passed = mount.status(Duration::from_secs(30)).unwrap().passed_opens;
    assert!(meanwhile != Meanwhile::Wholes || passed > 0, "no file became whole");
    mount.stop();
    cuts
}

/// Opens the thread on a clone of the disk, and tells what is not as it must be.
fn faults(
    meanwhile: Meanwhile,
    cut: &Cut,
    least: &[Ledger],
    repo: &Repo,
    machine: &Machine,
    boot: &str,
) -> Vec<String> {
    let disk = cut.power.restore();
    let repo = disk.path().join(repo.path().strip_prefix(machine.disk()).unwrap());
    let mountpoint = tempfile::tempdir().unwrap();
    let mount = Mounting::new(WORKER, &repo, mountpoint.path()).env(BOOT_ID, boot).start();
    let mut found = Vec::new();
    for (at, writer) in writers(meanwhile).iter().enumerate() {
        found.extend(writer.faults(mount.path(), &least[at], &cut.most[at]));
    }
    mount.stop();
    found
}

fn snapshot(mount: &Mounted) {
    let message = WirePath::from(Path::new("while the power may go").to_owned());
    mount.snapshot(message, Duration::from_mins(1), &mut |_| ()).unwrap();
}

/// Freezes and makes snapshots until the writers are told to end.
fn make_layers(mount: &Mounted, until: &writer::Shared) {
    let mut seed = Seed::new(17);
    while until.goes_on() {
        thread::sleep(Duration::from_millis(seed.below(250)));
        if seed.below(3) == 0 {
            snapshot(mount);
        } else {
            mount.freeze(Duration::from_secs(30)).unwrap();
        }
    }
}

fn cut_and_check(meanwhile: Meanwhile) {
    let count = std::env::var("SELVEDGE_TEST_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    for _ in 0..ROUNDS {
        let control = round(meanwhile, count);
        println!("{count} cuts, {control} faults if they counted as none");
        if control > 0 {
            return;
        }
    }
    panic!("{ROUNDS} times {count} cuts lost nothing: they prove nothing");
}

/// Cuts, checks, and tells how many faults there would be without recovery, or if nothing could be lost.
fn round(meanwhile: Meanwhile, count: usize) -> usize {
    let machine = Machine::new();
    let repo = Repo::with_tree_in(machine.disk(), |source| {
        for writer in writers(meanwhile) {
            writer.furnish(source);
        }
    });
    let mountpoint = tempfile::tempdir().unwrap();
    let cuts = cut_while_writing(&machine, &repo, mountpoint.path(), count, meanwhile);
    for (at, cut) in cuts.iter().enumerate() {
        let found = faults(meanwhile, cut, &cut.least, &repo, &machine, "after");
        let around = (&cut.least, &cut.most);
        assert!(found.is_empty(), "after cut {at}: {found:#?}\nbefore and afterwards: {around:?}");
    }
    let control = |cut: &Cut| match meanwhile {
        // Files are synced so soon that recovery has little to do: that something was lost is enough.
        Meanwhile::Wholes => {
            let all: Vec<_> = cut.least.iter().map(|it| Ledger { durable: it.begun, ..*it }).collect();
            faults(meanwhile, cut, &all, &repo, &machine, "after")
        }
        // As if only processes had died.
        _ => faults(meanwhile, cut, &cut.least, &repo, &machine, "before"),
    };
    cuts.iter().map(|cut| control(cut).len()).sum()
}

#[test]
fn after_a_power_cut_what_was_synced_is_there_and_the_rest_is_a_state_that_was() {
    cut_and_check(Meanwhile::Nothing);
}

#[test]
fn after_a_power_cut_the_same_holds_of_a_thread_that_was_being_frozen() {
    cut_and_check(Meanwhile::Layers);
}

#[test]
fn after_a_power_cut_large_files_have_what_was_synced_while_they_became_whole() {
    cut_and_check(Meanwhile::Wholes);
}

/// The worker dies there, so that the disk has time to do its worst: the rename of the new file is on it, and of the data only
/// what somebody has asked for.
#[test]
fn after_a_power_cut_at_any_point_of_its_becoming_whole_a_large_file_has_what_was_synced() {
    for point in selvedge_view::crash::POINTS.iter().filter(|point| point.starts_with("whole.")) {
        let machine = Machine::careless();
        let large = large::Large::new("large", 8);
        let repo = Repo::with_tree_in(machine.disk(), |source| large.furnish(source));
        let mountpoint = tempfile::tempdir().unwrap();
        let crash = format!("kill@{point}");
        let mount = Mounting::new(WORKER, &repo.path(), mountpoint.path())
            .env(BOOT_ID, "before")
            .env("SELVEDGE_FUSE_WORKER_CRASH_AT", &crash)
            .start();
        let ledger = large.use_much(mount.path());
        assert!(mount.wait(Some(Instant::now() + Duration::from_secs(20))).is_some(), "{point}: no death");
        thread::sleep(Duration::from_secs(3));
        let power = machine.cut(0);
        drop(mount);
        let disk = power.restore();
        let repo = disk.path().join(repo.path().strip_prefix(machine.disk()).unwrap());
        let mount = Mounting::new(WORKER, &repo, mountpoint.path()).env(BOOT_ID, "after").start();
        let found = large.faults(mount.path(), &ledger, &ledger);
        mount.stop();
        assert!(found.is_empty(), "{point}: {found:#?}");
    }
}
