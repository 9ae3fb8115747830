//! Programs at work while the worker is killed again and again: at any instant, by any signal.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_supervisor::{CallError, State};
use selvedge_test_support::{Mounted, Mounting, copy_program, is_apart, wait_until};
use selvedge_worker_proto::WirePath;

use crate::application::Application;
use crate::random::Random;
use crate::scene::{AS_NOBODY, ELSEWHERE, SOON, kill, mounting, nobodys, repo, unasked};

/// How often the worker is killed, unless `SELVEDGE_TEST_KILLS` says otherwise.
pub(crate) const KILLS: u32 = 25;

/// How a worker dies.
const DEATHS: &[Signal] = &[Signal::KILL, Signal::KILL, Signal::ABORT, Signal::SEGV];

/// How one hangs.
const HANGS: &[Signal] = &[Signal::KILL, Signal::STOP];

/// Calls that each program has answered between two deaths at least, so that each death meets a program at work.
const AT_WORK: u64 = 3;

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// How often, in a test that wants `share` kills where another wants [`KILLS`].
pub(crate) fn kills(share: u32) -> u32 {
    let all: u32 = setting("SELVEDGE_TEST_KILLS", KILLS.into()).try_into().unwrap();
    (all * share).div_ceil(KILLS)
}

/// What chooses when and how.
pub(crate) fn seed() -> u64 {
    setting("SELVEDGE_TEST_SEED", 1)
}

/// Waits until the present worker has answered something.
fn wait_served(mount: &Mounted) {
    wait_until("a worker that serves", SOON, || {
        mount.state() == State::Ready
            && mount.status(Duration::from_secs(5)).is_ok_and(|status| status.requests > 0)
    });
}

/// Programs at work.
pub(crate) struct Loads(Vec<Application>);

impl Loads {
    pub(crate) fn new(mut loads: Vec<Application>) -> Self {
        loads.iter_mut().for_each(Application::wait_started);
        Self(loads)
    }

    /// How many calls each has verified.
    pub(crate) fn calls(&self) -> Vec<u64> {
        self.0.iter().map(Application::calls).collect()
    }

    /// Waits until each has had a few calls answered since it had `before`: whatever dies now meets all of them.
    #[track_caller]
    pub(crate) fn wait_at_work(&mut self, before: &[u64]) {
        wait_until("programs at work", 4 * SOON, || {
            assert!(!self.0.iter_mut().any(Application::has_ended), "a program has ended by itself");
            self.calls().iter().zip(before).all(|(now, before)| *now >= before + AT_WORK)
        });
    }

    /// Has them end; all must have found everything as it must be.
    #[track_caller]
    pub(crate) fn end(self) -> u64 {
        self.0.into_iter().map(Application::end).sum()
    }
}

/// What happens to a mount while programs use it.
struct Chaos<'a> {
    kills: u32,
    /// The longest pause before a death, in milliseconds.
    longest: usize,
    deaths: &'a [Signal],
    /// Something else that happens to the mount, until it is told that it is enough.
    beside: &'a (dyn Fn(&Mounted, &AtomicBool) + Sync),
}

impl Default for Chaos<'_> {
    fn default() -> Self {
        Self { kills: kills(KILLS), longest: 2000, deaths: DEATHS, beside: &|_, _| {} }
    }
}

impl Chaos<'_> {
    /// Has it happen to a mount with the programs that `start` starts in it.
    fn run(&self, mounting: Mounting, start: impl FnOnce(&Mounted) -> Vec<Application>) {
        let seed = seed();
        let mut random = Random::new(seed);
        let lifetime = Duration::from_mins(5) + Duration::from_secs(8) * self.kills;
        let mount = mounting.lifetime(lifetime).start();
        let mut loads = Loads::new(start(&mount));
        let begun = Instant::now();
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| (self.beside)(&mount, &enough));
            let _enough = Enough(&enough);
            for number in 0..self.kills {
                let before = loads.calls();
                wait_served(&mount);
                std::thread::sleep(Duration::from_millis(1 + random.below(self.longest) as u64));
                loads.wait_at_work(&before);
                let (restarts, cause) = (mount.restarts(), mount.last_cause());
                assert_eq!(restarts, number, "a worker died that nobody killed: {cause:?}");
                kill(&mount, self.deaths[random.below(self.deaths.len())]);
            }
            wait_served(&mount);
            let calls = loads.end();
            eprintln!("seed {seed}: {} kills in {:?}, {calls} calls verified", self.kills, begun.elapsed());
        });
        assert_eq!(mount.restarts(), self.kills);
        let ended = Instant::now();
        mount.stop();
        eprintln!("unmounted in {:?}", ended.elapsed());
    }

    /// Has it happen to programs that play `role`.
    fn upon(&self, role: &'static str) {
        let repo = repo();
        self.run(mounting(&repo), |mount| vec![Application::start(role, mount.path(), seed())]);
    }
}

/// Tells that it is enough when it goes, whyever.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes a snapshot every so often until it is enough, and counts them.
fn make_snapshots(mount: &Mounted, enough: &AtomicBool, made: &AtomicU32, pause: Duration) {
    while !enough.load(Ordering::Relaxed) {
        match mount.snapshot(WirePath::from("x"), Duration::from_secs(20), &mut |_| {}) {
            Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
            Err(CallError::Recovering | CallError::Ended | CallError::Send(_)) => {}
            Err(error) => panic!("no snapshot: {error}"),
        }
        std::thread::sleep(pause);
    }
}

/// A snapshot that meets a death is not made, or is made and not told of; nobody else notices either.
#[test]
fn nobody_notices_that_workers_die_while_they_make_snapshots() {
    let made = AtomicU32::new(0);
    let snapshots = |mount: &Mounted, enough: &AtomicBool| {
        make_snapshots(mount, enough, &made, Duration::from_millis(20));
    };
    Chaos { longest: 1000, beside: &snapshots, ..Chaos::default() }.upon("system calls");
    let made = made.into_inner();
    eprintln!("{made} snapshots");
    assert!(made > 2);
}

/// Each snapshot has the files changed in part again.
#[test]
fn nobody_notices_that_workers_die_while_large_files_become_whole() {
    let (repo, made) = (crate::patched::repo(), AtomicU32::new(0));
    let snapshots = |mount: &Mounted, enough: &AtomicBool| {
        make_snapshots(mount, enough, &made, Duration::from_secs(3));
    };
    let chaos = Chaos { longest: 1500, beside: &snapshots, ..Chaos::default() };
    chaos.run(mounting(&repo).option("--passthrough").option("on"), |mount| {
        vec![Application::start("much used files", mount.path(), seed())]
    });
    assert!(made.into_inner() > 2);
}

/// Without deaths there is nothing to notice: what the programs say is about the deaths.
#[test]
fn programs_find_nothing_wrong_while_nobody_dies() {
    for role in ["system calls", "programs"] {
        Chaos { kills: 0, ..Chaos::default() }.upon(role);
    }
}

#[test]
fn nobody_notices_that_workers_die_at_random_instants() {
    Chaos::default().upon("system calls");
}

/// Deaths that follow each other so fast that a successor's first requests are hit.
#[test]
fn nobody_notices_that_successors_die_over_their_first_requests() {
    Chaos { kills: kills(4 * KILLS), longest: 20, ..Chaos::default() }.upon("system calls");
}

/// A worker that is stopped is killed by its supervisor, which takes as long as it may hang.
#[test]
fn nobody_notices_that_workers_hang_at_random_instants() {
    let repo = repo();
    let mounting = mounting(&repo).hang_limit(Duration::from_millis(500));
    let chaos = Chaos { kills: kills(KILLS / 3), longest: 400, deaths: HANGS, ..Chaos::default() };
    chaos.run(mounting, |mount| vec![Application::start("system calls", mount.path(), seed())]);
}

#[test]
fn databases_git_and_archives_notice_no_death() {
    Chaos { longest: 400, ..Chaos::default() }.upon("programs");
}

/// What the kernel holds back comes to the successor.
#[test]
fn nobody_notices_that_workers_die_where_writes_are_held_back() {
    let repo = repo();
    Chaos { longest: 1000, ..Chaos::default() }.run(mounting(&repo).option("--writeback"), |mount| {
        vec![Application::start("system calls", mount.path(), seed())]
    });
}

#[test]
fn databases_git_and_archives_notice_no_death_where_writes_are_held_back() {
    let repo = repo();
    let chaos = Chaos { kills: kills(KILLS / 2), longest: 400, ..Chaos::default() };
    chaos.run(mounting(&repo).option("--writeback"), |mount| {
        vec![Application::start("programs", mount.path(), seed())]
    });
}

/// What is open is known to the kernel alone.
#[test]
fn nobody_notices_that_workers_die_where_files_are_opened_without_asking() {
    let repo = repo();
    Chaos { longest: 1000, ..Chaos::default() }.run(unasked(mounting(&repo)), |mount| {
        vec![Application::start("system calls", mount.path(), seed())]
    });
}

#[test]
fn databases_git_and_archives_notice_no_death_where_files_are_opened_without_asking() {
    let repo = repo();
    let chaos = Chaos { kills: kills(KILLS / 2), longest: 400, ..Chaos::default() };
    chaos.run(unasked(mounting(&repo)), |mount| vec![Application::start("programs", mount.path(), seed())]);
}

#[test]
fn compilers_notice_no_death() {
    Chaos { kills: kills(KILLS / 2), longest: 800, ..Chaos::default() }.upon("builds");
}

/// What the kernel reads and writes itself goes on while nobody serves, and comes back to a worker that has never heard of
/// it.
#[test]
fn nobody_notices_deaths_while_files_are_passed_through() {
    let repo = repo();
    let mounting = mounting(&repo).option("--passthrough").option("on");
    Chaos { longest: 400, ..Chaos::default() }.run(mounting, |mount| {
        ["system calls", "programs"]
            .into_iter()
            .map(|role| Application::start(role, mount.path(), seed()))
            .collect()
    });
}

/// As another user, whose mounts a helper makes.
#[test]
fn nobody_notices_that_an_ordinary_users_workers_die() {
    let (repo, worker) = nobodys();
    let program = repo.dir().join("application");
    copy_program(std::env::current_exe().unwrap().to_str().unwrap(), &program);
    let command: Vec<&str> =
        ["setpriv"].into_iter().chain(AS_NOBODY).chain([program.to_str().unwrap()]).collect();
    let mounting = repo.mounting(&worker).recovering().through("/usr/bin/setpriv", &AS_NOBODY);
    Chaos { longest: 400, ..Chaos::default() }.run(mounting, |mount| {
        ["system calls", "programs"]
            .into_iter()
            .map(|role| Application::start_by(&command, role, mount.path(), seed()))
            .collect()
    });
}

/// Programs in two mount namespaces, each with a mount of its own of the same connection.
#[test]
fn nobody_notices_in_another_mount_namespace_either() {
    let repo = repo();
    let this = std::env::current_exe().unwrap();
    let elsewhere: Vec<&str> = ELSEWHERE.into_iter().chain([this.to_str().unwrap()]).collect();
    Chaos { longest: 400, ..Chaos::default() }.run(mounting(&repo), |mount| {
        vec![
            Application::start("programs", mount.path(), seed()),
            Application::start_by(&elsewhere, "system calls", mount.path(), seed()),
        ]
    });
}

/// Successors that are killed before they serve, or as they begin to.
#[test]
fn nobody_notices_that_successors_die_while_they_start() {
    let repo = repo();
    let (kills, mut random) = (kills(KILLS), Random::new(seed()));
    let lifetime = Duration::from_mins(5) + Duration::from_secs(8) * kills;
    let mount = mounting(&repo).restart_budget(kills + 1).lifetime(lifetime).start();
    let mut loads = Loads::new(vec![Application::start("system calls", mount.path(), seed())]);
    let mut at_start = 0;
    for number in 0..kills {
        if number % 5 == 0 {
            // Now and then one serves; the pauses between those that do not would grow and grow.
            let before = loads.calls();
            wait_served(&mount);
            loads.wait_at_work(&before);
        } else {
            let deadline = Instant::now() + SOON;
            while mount.worker_pid().is_none() || mount.restarts() != number {
                assert!(Instant::now() < deadline, "no successor after {number} kills");
                std::thread::sleep(Duration::from_micros(50));
            }
            std::thread::sleep(Duration::from_micros(random.below(8_000) as u64));
        }
        at_start += u32::from(mount.state() == State::Recovering);
        kill(&mount, DEATHS[random.below(DEATHS.len())]);
    }
    wait_served(&mount);
    let calls = loads.end();
    eprintln!("{kills} kills, {at_start} of them before the worker served; {calls} calls verified");
    assert!(at_start * 4 >= kills, "{at_start} of {kills} before the worker served");
    assert_eq!(mount.restarts(), kills);
    mount.stop();
}

/// How many tests share the points, so that they run side by side.
const SHARES: usize = 4;

/// Ways in which files are reached, as options of the worker.
const SERVED: &[&str] = &["--passthrough", "off"];
const PASSED: &[&str] = &["--passthrough", "on"];
const UNASKED: &[&str] = &["--profile", "small-files"];

/// What is asked once at most, or never, where files are opened without asking.
const UNASKED_FOR: &[&str] =
    &["fuse.open.", "fuse.create.", "fuse.release.", "fuse.flush.", "fuse.lseek.", "session.released"];

/// Those of them in which a test can come by the point twice.
fn ways_to(point: &str) -> Vec<&'static [&'static str]> {
    if point.starts_with("backing.") {
        // Who passes nothing through has nothing to give up.
        return vec![PASSED];
    }
    let mut ways = vec![SERVED, PASSED];
    if !UNASKED_FOR.iter().any(|prefix| point.starts_with(prefix)) {
        ways.push(UNASKED);
    }
    ways
}

/// The worker dies at every named point of every operation in turn, and its successor there again.
fn walk(share: usize) {
    let points = selvedge_view::crash::POINTS.iter().chain(selvedge_mount::POINTS);
    let points = points.filter(|point| !is_apart(point));
    for (index, point) in points.enumerate().filter(|(index, _)| index % SHARES == share) {
        for way in ways_to(point) {
            die_twice_at(point, way, index as u64);
        }
    }
}

/// The worker dies at the point, and its successor there again.
fn die_twice_at(point: &str, way: &[&str], seed: u64) {
    let repo = repo();
    // Killed, and not by a fault of its own: nobody is to blame a request for two of these deaths. What only
    // successors do wants another death first.
    let first = match point {
        // Not every commit is that of a request which is sent again as the same change.
        "commit.again" => "fuse.rename.reply",
        point if point.starts_with("resume.") => "fuse.write.reply",
        point => point,
    };
    let mount = way
        .iter()
        .fold(mounting(&repo), |mounting, option| mounting.option(option))
        .env("SELVEDGE_FUSE_WORKER_CRASH_AT", &format!("kill@{first}"))
        .env("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", &format!("1*kill@{point}"))
        .start();
    Application::start("operations", mount.path(), seed).serve(&mount);
    let (restarts, cause) = (mount.restarts(), mount.last_cause());
    assert_eq!(restarts, 2, "{point}, {way:?}: {cause:?}");
    mount.stop();
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
