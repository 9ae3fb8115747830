//! Threads of one repository, mounted by a service, over which everything that can happen to them happens at random:
//! writes, snapshots, forks of threads and of snapshots, remounts, deletions, `gc`, and deaths of workers and of the
//! service, one at a time, which nobody notices, and of all at once, which loses nothing that was acknowledged.
//!
//! Every thread has a model, and equals it whenever it is looked at; every snapshot has the model of its thread at that
//! instant, and says the same for ever, by the same digest.
//!
//! Who does what is chosen by a seed, which a failure prints: `SELVEDGE_TEST_SEED` makes the same choices again, as far
//! as the scheduler lets it, and `SELVEDGE_TEST_ROUNDS` says how long. `scripts/chaos` runs it long.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails where something is not as it must be"
)]

mod deaths;
mod line;
#[path = "../crash/model.rs"]
mod model;
#[path = "../crash/operation.rs"]
mod operation;
#[path = "../crash/random.rs"]
mod random;
#[path = "../../crates/cli/tests/cli/sandbox.rs"]
#[allow(dead_code, reason = "these tests use a part")]
mod sandbox;
mod world;
#[path = "../crash/writer.rs"]
mod writer;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use line::Line;
use random::Random;
use world::World;

/// How many rounds, unless `SELVEDGE_TEST_ROUNDS` says otherwise.
const ROUNDS: u64 = 6;

/// After so long these are enough, however slow the machine is, if everything has died at once in one of them.
const LONG: Duration = Duration::from_secs(30);

/// No more threads than this are there when a round begins.
const MOST: usize = 4;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Says that it is enough when it goes, whyever.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every thread lives for a while, all at once, beside `gc` and deaths that nobody notices; tells which were forked.
fn live(world: &World, lines: &mut [Line], random: &mut Random) -> Vec<Line> {
    let (newborn, enough) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _enough = Enough(&enough);
        let deaths = scope.spawn(|| deaths::one_at_a_time(world, random, &enough));
        let newborn = &newborn;
        let lives: Vec<_> =
            lines.iter_mut().map(|line| scope.spawn(move || line.live(world, newborn))).collect();
        let ended: Vec<_> = lives.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        enough.store(true, Ordering::Relaxed);
        deaths.join().unwrap();
        assert!(ended.iter().all(Result::is_ok), "a thread was not as it must be");
    });
    newborn.into_inner().unwrap()
}

#[test]
fn threads_equal_their_models_and_snapshots_never_change_through_everything_at_once() {
    let (seed, rounds) = (setting("SELVEDGE_TEST_SEED", 1), setting("SELVEDGE_TEST_ROUNDS", ROUNDS));
    eprintln!("seed {seed}, {rounds} rounds");
    let world = World::new();
    let mut random = Random::new(seed);
    let mut first = Line::first(&world, seed);
    let mut lines = vec![first.fork(&world), first];
    let began = Instant::now();
    for round in 0..rounds {
        if round >= 2 && rounds == ROUNDS && began.elapsed() > LONG {
            eprintln!("{round} rounds in {:?} are enough", began.elapsed());
            break;
        }
        let newborn = live(&world, &mut lines, &mut random);
        lines.extend(newborn);
        if round % 2 == 1 {
            deaths::all_at_once(&world, &mut lines, &mut random);
        }
        for line in &mut lines {
            line.check(&world);
        }
        while lines.len() > MOST || (lines.len() > 2 && random.below(2) == 0) {
            let gone = lines.swap_remove(random.below(lines.len()));
            gone.delete(&world);
        }
        world.keep_only(lines.iter().flat_map(Line::history));
        world.check_some_snapshots(&mut random, 3);
    }
    for line in &mut lines {
        line.unmount(&world);
    }
    world.sandbox.run(["gc"]).ok();
    world.sandbox.run(["fsck"]).ok();
    for line in &mut lines {
        line.check(&world);
    }
    world.check_all_snapshots();
    world.tell();
}
