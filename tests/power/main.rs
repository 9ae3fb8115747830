//! The power goes: what was synced is there, and the rest is a state that once was.
//!
//! The repository lies on an ext4 file system whose image is cloned at random instants while programs write to the
//! mount. A clone is what a disk holds when its machine loses power at that instant: no page that ext4 or a worker
//! had yet to write is in it. Each clone is mounted, the thread opened as after a reboot, and held against what the
//! programs knew to be durable before the cut and what they had begun after it.
//!
//! Needs root, loop devices and XFS, which alone clones an image in one piece.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails where something is not as it must be"
)]

mod disk;
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
use selvedge_test_support::{Mounting, Repo, assert_inside};
use writer::{Ledger, Writer};

const WORKER: &str = env!("CARGO_BIN_EXE_selvedge-fuse-worker");

/// Cuts in one run, unless `SELVEDGE_TEST_CUTS` says how many.
const CUTS: usize = 6;

/// Under this name of a boot the thread is written, and under the other it is opened again.
const BOOT_ID: &str = "SELVEDGE_TEST_BOOT_ID";

fn writers() -> Vec<Box<dyn Writer>> {
    vec![
        Box::new(names::Names::new("names0", 1)),
        Box::new(names::Names::new("names1", 2)),
        Box::new(replace::Replace::new("replace", 3)),
        Box::new(stream::Stream::new("stream", 4)),
        Box::new(touch::Touch::new("touch", 5)),
    ]
}

/// A clone of the disk, and what each writer knew around it.
struct Cut {
    power: Power,
    /// What was durable before.
    least: Vec<Ledger>,
    /// What had begun afterwards.
    most: Vec<Ledger>,
}

/// Writes to a mount and cuts the power again and again.
fn cut_while_writing(machine: &Machine, repo: &Repo, mountpoint: &Path, count: usize) -> Vec<Cut> {
    let mount = Mounting::new(WORKER, &repo.path(), mountpoint).env(BOOT_ID, "before").start();
    assert_inside(mount.path());
    let writers = writers();
    let ledgers: Vec<_> = writers.iter().map(|_| writer::Shared::default()).collect();
    let mut seed = Seed::new(std::process::id().into());
    let cuts = thread::scope(|scope| {
        for (writer, ledger) in writers.into_iter().zip(&ledgers) {
            let root = mount.path();
            scope.spawn(move || writer.write(root, ledger));
        }
        let look = || ledgers.iter().map(writer::Shared::look).collect::<Vec<_>>();
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
        assert!(end.begun > 20 && end.durable > 0, "a writer did too little: {end:?}");
    }
    mount.stop();
    cuts
}

/// Opens the thread on a clone of the disk, and tells what is not as it must be.
fn faults(cut: &Cut, repo: &Repo, machine: &Machine, boot: &str) -> Vec<String> {
    let disk = cut.power.restore();
    let repo = disk.path().join(repo.path().strip_prefix(machine.disk()).unwrap());
    let mountpoint = tempfile::tempdir().unwrap();
    let mount = Mounting::new(WORKER, &repo, mountpoint.path()).env(BOOT_ID, boot).start();
    let mut found = Vec::new();
    for (at, writer) in writers().iter().enumerate() {
        found.extend(writer.faults(mount.path(), &cut.least[at], &cut.most[at]));
    }
    mount.stop();
    found
}

#[test]
fn after_a_power_cut_what_was_synced_is_there_and_the_rest_is_a_state_that_was() {
    let count = std::env::var("SELVEDGE_TEST_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    let started = Instant::now();
    let machine = Machine::new();
    let repo = Repo::with_tree_in(machine.disk(), |source| {
        for writer in writers() {
            writer.furnish(source);
        }
    });
    let mountpoint = tempfile::tempdir().unwrap();
    let cuts = cut_while_writing(&machine, &repo, mountpoint.path(), count);
    for (at, cut) in cuts.iter().enumerate() {
        let found = faults(cut, &repo, &machine, "after");
        assert!(
            found.is_empty(),
            "after cut {at}: {found:#?}\nbefore: {:?}\nafterwards: {:?}",
            cut.least,
            cut.most
        );
    }
    // Opened as if only processes had died, something is missing; or the cuts took nothing away, and prove nothing.
    let control: usize = cuts.iter().map(|cut| faults(cut, &repo, &machine, "before").len()).sum();
    assert!(control > 0, "{count} cuts lost nothing even without recovery");
    println!("{count} cuts, {control} faults without recovery, {:?}", started.elapsed());
}
