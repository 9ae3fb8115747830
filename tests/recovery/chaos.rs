//! Programs at work while the worker is killed again and again: at any instant, by any signal.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_supervisor::{CallError, State};
use selvedge_test_support::{Mounted, Mounting, wait_until};
use selvedge_worker_proto::WirePath;

use crate::application::Application;
use crate::random::Random;
use crate::scene::{SOON, kill, mounting, repo};

/// How often the worker is killed, unless `SELVEDGE_TEST_KILLS` says otherwise.
const KILLS: u32 = 25;

/// How a worker dies.
const DEATHS: [Signal; 4] = [Signal::KILL, Signal::KILL, Signal::ABORT, Signal::SEGV];

/// How one hangs.
const HANGS: [Signal; 2] = [Signal::KILL, Signal::STOP];

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Waits until the present worker has answered something.
fn wait_served(mount: &Mounted) {
    wait_until("a worker that serves", SOON, || {
        mount.state() == State::Ready
            && mount.status(Duration::from_secs(5)).is_ok_and(|status| status.requests > 0)
    });
}

/// Kills the worker `kills` times while everything runs. `longest` is the longest pause before a death, in
/// milliseconds.
fn chaos(role: &'static str, mounting: Mounting, kills: u32, longest: usize) {
    chaos_beside(role, mounting, kills, longest, &DEATHS, &|_, _| {});
}

/// The same with something else that happens to the mount, until it is told that it is enough.
fn chaos_beside(
    role: &'static str,
    mounting: Mounting,
    kills: u32,
    longest: usize,
    deaths: &[Signal],
    beside: &(dyn Fn(&Mounted, &AtomicBool) + Sync),
) {
    let seed = setting("SELVEDGE_TEST_SEED", 1);
    eprintln!("seed {seed}, {kills} kills");
    let mut random = Random::new(seed);
    let mount = mounting.lifetime(Duration::from_mins(1) + Duration::from_secs(6) * kills).start();
    let mut load = Application::start(role, mount.path(), seed);
    load.wait_started();
    let begun = Instant::now();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| beside(&mount, &enough));
        let _enough = Enough(&enough);
        for number in 0..kills {
            wait_served(&mount);
            std::thread::sleep(Duration::from_millis(1 + random.below(longest) as u64));
            assert!(!load.has_ended(), "after {number} kills");
            assert_eq!(
                mount.restarts(),
                number,
                "a worker died that nobody killed: {:?}",
                mount.last_cause()
            );
            kill(&mount, deaths[random.below(deaths.len())]);
        }
        wait_served(&mount);
        load.end();
    });
    assert_eq!(mount.restarts(), kills);
    eprintln!("{kills} kills in {:?}", begun.elapsed());
    mount.stop();
}

/// Tells that it is enough when it goes, whyever.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A snapshot that meets a death is not made, or is made and not told of; nobody else notices either.
#[test]
fn nobody_notices_that_workers_die_while_they_make_snapshots() {
    let repo = repo();
    let kills = setting("SELVEDGE_TEST_KILLS", KILLS.into());
    let made = AtomicU32::new(0);
    let snapshots = |mount: &Mounted, enough: &AtomicBool| {
        while !enough.load(Ordering::Relaxed) {
            match mount.snapshot(WirePath::from("x"), Duration::from_secs(20), &mut |_| {}) {
                Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
                Err(CallError::Recovering | CallError::Ended | CallError::Send(_)) => {}
                Err(error) => panic!("no snapshot: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    chaos_beside("system calls", mounting(&repo), kills.try_into().unwrap(), 1000, &DEATHS, &snapshots);
    let made = made.into_inner();
    eprintln!("{made} snapshots");
    assert!(made > 2);
}

#[test]
fn nobody_notices_that_workers_die_at_random_instants() {
    let repo = repo();
    let kills = setting("SELVEDGE_TEST_KILLS", KILLS.into());
    chaos("system calls", mounting(&repo), kills.try_into().unwrap(), 2000);
}

/// Deaths that follow each other so fast that a successor's first requests are hit.
#[test]
fn nobody_notices_that_successors_die_over_their_first_requests() {
    let repo = repo();
    let kills = setting("SELVEDGE_TEST_KILLS", KILLS.into());
    chaos("system calls", mounting(&repo), 4 * u32::try_from(kills).unwrap(), 20);
}

/// A worker that is stopped is killed by its supervisor, which takes as long as it may hang.
#[test]
fn nobody_notices_that_workers_hang_at_random_instants() {
    let repo = repo();
    let kills = u32::try_from(setting("SELVEDGE_TEST_KILLS", KILLS.into())).unwrap() / 3;
    let mounting = mounting(&repo).hang_limit(Duration::from_millis(500));
    chaos_beside("system calls", mounting, kills, 400, &HANGS, &|_, _| {});
}

#[test]
fn databases_and_git_notice_no_death() {
    let repo = repo();
    let kills = setting("SELVEDGE_TEST_KILLS", KILLS.into());
    chaos("programs", mounting(&repo), kills.try_into().unwrap(), 400);
}

/// How many tests share the points, so that they run side by side.
const SHARES: usize = 4;

/// The worker dies at every named point of every operation in turn, and its successor there again.
fn walk(share: usize) {
    let points = selvedge_view::crash::POINTS.iter().chain(selvedge_mount::POINTS);
    // Those before the mount is ready have tests of their own; freezing is another's wish, and the log is brought into
    // its file now and then only.
    let elsewhere = ["fuse.init.", "freeze.", "seal.", "snapshot.", "collapse.", "merge.", "checkpoint."];
    let points = points.filter(|point| !elsewhere.iter().any(|prefix| point.starts_with(prefix)));
    for (index, point) in points.enumerate().filter(|(index, _)| index % SHARES == share) {
        let repo = repo();
        let takeover = point.starts_with("resume.");
        // Killed, and not by a fault of its own: nobody is to blame a request for two of these deaths.
        let first = if takeover { "fuse.write.reply" } else { point };
        let mount = mounting(&repo)
            .env("SELVEDGE_FUSE_WORKER_CRASH_AT", &format!("kill@{first}"))
            .env("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", &format!("1*kill@{point}"))
            .start();
        Application::start("operations", mount.path(), index as u64).serve(&mount);
        assert_eq!(mount.restarts(), 2, "{point}: {:?}", mount.last_cause());
        mount.stop();
    }
}

#[test]
fn nobody_notices_a_death_at_any_point_first_share() {
    walk(0);
}

#[test]
fn nobody_notices_a_death_at_any_point_second_share() {
    walk(1);
}

#[test]
fn nobody_notices_a_death_at_any_point_third_share() {
    walk(2);
}

#[test]
fn nobody_notices_a_death_at_any_point_fourth_share() {
    walk(3);
}
