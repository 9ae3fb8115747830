//! Programs at work: each knows what every call must answer, and panics, which ends the whole application, at the
//! first that answers otherwise.

mod abandoned;
mod append;
mod archive;
mod build;
mod churn;
mod crowd;
mod database;
mod exclusive;
mod fsx;
mod git;
mod holding;
mod large;
mod listing;
mod mapped;
mod positions;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
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

/// Something to do, again and again.
struct Kind {
    name: &'static str,
    run: fn(&mut Load<'_>),
    /// How many do it beside each other.
    count: usize,
    /// How many calls have to be answered, of all of them together, before the end.
    enough: u64,
}

const fn kind(name: &'static str, run: fn(&mut Load<'_>), count: usize, enough: u64) -> Kind {
    Kind { name, run, count, enough }
}

/// What system calls can do.
const SYSTEM_CALLS: &[Kind] = &[
    kind("churn", churn::run, 2, 20),
    kind("positions", positions::run, 4, 20),
    kind("append", append::run, 2, 20),
    kind("large, buffered", large::buffered, 1, 10),
    kind("large, direct", large::direct, 1, 10),
    kind("exclusive", exclusive::run, 2, 10),
    kind("crowd", crowd::run, 8, 20),
    kind("abandoned", abandoned::run, 2, 4),
    kind("holding", holding::run, 1, 10),
    kind("listing", listing::run, 1, 10),
    kind("mapped", mapped::run, 1, 10),
    kind("fsx", fsx::run, 2, 20),
];

/// Programs that others wrote.
const PROGRAMS: &[Kind] = &[
    kind("database", database::run, 3, 10),
    kind("git", git::run, 1, 6),
    kind("archive", archive::run, 1, 3),
];

/// Those that start many others.
const BUILDS: &[Kind] = &[kind("build", build::run, 1, 4), kind("archive", archive::run, 1, 3)];

/// System calls of every kind, until the test wants the end.
pub(crate) fn system_calls(talk: &Talk) {
    append::prepare(&talk.dir);
    crowd::prepare(&talk.dir);
    run(talk, SYSTEM_CALLS);
    append::check(&talk.dir, 2);
    crowd::check(&talk.dir);
}

/// Databases, version control and archives, until the test wants the end.
pub(crate) fn programs(talk: &Talk) {
    database::prepare(&talk.dir);
    git::prepare(&talk.dir);
    archive::prepare(&talk.dir);
    run(talk, PROGRAMS);
    database::check(&talk.dir);
}

/// Compilers and archives, until the test wants the end.
pub(crate) fn builds(talk: &Talk) {
    archive::prepare(&talk.dir);
    run(talk, BUILDS);
}

/// How long all of them may take to have done enough.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs all of them until the test wants the end and each has got something done.
fn run(talk: &Talk, kinds: &[Kind]) {
    // A panic in one thread must end the application at once, whatever the others wait for.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    let (ended, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let done: Vec<AtomicU64> = kinds.iter().map(|_| AtomicU64::new(0)).collect();
    let all = || done.iter().map(|done| done.load(Ordering::Relaxed)).sum::<u64>();
    thread::scope(|outer| {
        outer.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                talk.tell(all());
                thread::sleep(Duration::from_millis(1));
            }
        });
        thread::scope(|scope| {
            for (kind, done) in kinds.iter().zip(&done) {
                for number in 0..kind.count {
                    let seed = talk.seed * 1000 + number as u64;
                    let (random, ended, dir) = (Random::new(seed), &ended, &*talk.dir);
                    thread::Builder::new()
                        .name(kind.name.to_owned())
                        .spawn_scoped(scope, move || {
                            (kind.run)(&mut Load { dir, random, ended, done, number });
                        })
                        .unwrap();
                }
            }
            talk.started();
            talk.wait_for_end();
            wait_until("every kind of load to get something done", PATIENCE, || {
                kinds.iter().zip(&done).all(|(kind, done)| done.load(Ordering::Relaxed) > kind.enough)
            });
            ended.store(true, Ordering::Relaxed);
        });
        over.store(true, Ordering::Relaxed);
    });
    talk.tell(all());
    let each = kinds.iter().zip(&done);
    let each: Vec<_> =
        each.map(|(kind, done)| format!("{} {}", done.load(Ordering::Relaxed), kind.name)).collect();
    eprintln!("verified: {} ({})", all(), each.join(", "));
}

/// Reads and writes that come to the worker even where files are passed through: the first to open a file of the base is
/// served, and goes on so when it has been copied.
fn serve_some(dir: &std::path::Path) {
    for number in 0..8 {
        let path = dir.join(format!("many/{number}"));
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [b'0' + number]);
        file.write_all_at(b"served", 0).unwrap();
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"served");
    }
}

/// Every kind of operation at least once, and most of them often.
pub(crate) fn operations(talk: &Talk) {
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let random = Random::new(talk.seed);
            let load = Load { dir: &talk.dir, random, ended: &ended, done: &done, number: 0 };
            serve_some(&talk.dir);
            exclusive::once(&load);
            churn::some(&load, 400);
            // What was unlinked and closed is removed a little later.
            thread::sleep(Duration::from_millis(700));
            churn::some(&load, 20);
        });
    });
}
