//! Programs at work: each knows what every call must answer, and panics, which ends the whole application, at the
//! first that answers otherwise.

mod append;
mod churn;
mod database;
mod exclusive;
mod git;
mod holding;
mod large;
mod listing;
mod mapped;
mod positions;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use selvedge_test_support::wait_until;

use crate::application::Talk;
use crate::random::Random;

/// What every load is given.
pub(crate) struct Load<'a> {
    pub(crate) dir: &'a std::path::Path,
    pub(crate) random: Random,
    pub(crate) ended: &'a AtomicBool,
    /// Calls that were answered as they must.
    pub(crate) done: &'a AtomicU64,
    /// Tells loads of one kind apart.
    pub(crate) number: usize,
}

impl Load<'_> {
    pub(crate) fn goes_on(&self) -> bool {
        self.done.fetch_add(1, Ordering::Relaxed);
        !self.ended.load(Ordering::Relaxed)
    }
}

/// How much of each kind has to be done before the end.
const ENOUGH: u64 = 10;

type Kind = fn(&mut Load<'_>);

/// What runs, and how often beside itself.
const KINDS: &[(&str, Kind, usize)] = &[
    ("churn", churn::run, 2),
    ("positions", positions::run, 4),
    ("append", append::run, 2),
    ("large, buffered", large::buffered, 1),
    ("large, direct", large::direct, 1),
    ("exclusive", exclusive::run, 2),
    ("holding", holding::run, 1),
    ("listing", listing::run, 1),
    ("mapped", mapped::run, 1),
];

/// Programs that others wrote.
const PROGRAMS: &[(&str, Kind, usize)] = &[("database", database::run, 3), ("git", git::run, 1)];

/// System calls of every kind, until the test wants the end.
pub(crate) fn system_calls(talk: &Talk) {
    append::prepare(&talk.dir);
    run(talk, KINDS);
    append::check(&talk.dir, 2);
}

/// Databases and version control, until the test wants the end.
pub(crate) fn programs(talk: &Talk) {
    database::prepare(&talk.dir);
    git::prepare(&talk.dir);
    run(talk, PROGRAMS);
    database::check(&talk.dir);
}

/// Runs all of them until the test wants the end and each has got something done.
fn run(talk: &Talk, kinds: &[(&'static str, Kind, usize)]) {
    // A panic in one thread must end the application at once, whatever the others wait for.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    let ended = AtomicBool::new(false);
    let done: Vec<AtomicU64> = kinds.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for ((kind, run, count), done) in kinds.iter().zip(&done) {
            for number in 0..*count {
                let seed = talk.seed * 1000 + number as u64;
                let (random, ended, dir) = (Random::new(seed), &ended, &*talk.dir);
                thread::Builder::new()
                    .name((*kind).to_owned())
                    .spawn_scoped(scope, move || run(&mut Load { dir, random, ended, done, number }))
                    .unwrap();
            }
        }
        talk.started();
        talk.wait_for_end();
        wait_until("every kind of load to get something done", Duration::from_mins(1), || {
            done.iter().all(|done| done.load(Ordering::Relaxed) > ENOUGH)
        });
        ended.store(true, Ordering::Relaxed);
    });
    for ((kind, _, _), done) in kinds.iter().zip(&done) {
        eprintln!("{kind}: {}", done.load(Ordering::Relaxed));
    }
}

/// Every kind of operation at least once, and most of them often.
pub(crate) fn operations(talk: &Talk) {
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let random = Random::new(talk.seed);
            let load = Load { dir: &talk.dir, random, ended: &ended, done: &done, number: 0 };
            exclusive::once(&load);
            churn::some(&load, 400);
            // What was unlinked and closed is removed a little later.
            thread::sleep(Duration::from_millis(700));
            churn::some(&load, 20);
        });
    });
}
