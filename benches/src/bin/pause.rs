//! How long a mount pauses when its worker is killed: from the SIGKILL to the first request that is answered.
//!
//! `pause [KILLS [FILES]...]` prints the median, the 99th percentile and the longest of each situation: nobody else at
//! work; four programs at work; so many files known to the kernel (10, 10 000 and 1 000 000, or those that are given);
//! workers with 64 and 256 MiB of memory resident; names that were changed right before, for which a successor has a journal
//! to read. The request asks for the attributes of a file that nobody changed,
//! which the kernel knows by its number. Beneath each stands where the median goes, step by step. With a release build, on an
//! idle machine.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use selvedge_bench::{Figures, Live, resident};
use selvedge_supervisor::{State, Supervisor};

/// Kills in each situation unless the command line says otherwise.
const KILLS: usize = 100;

/// Changes of names right before a death, where there are any: about as many as the catalog's file lacks at the most.
const CHANGES: usize = 2500;

/// Known files unless the command line says otherwise.
const FILES: [usize; 3] = [10, 10_000, 1_000_000];

/// How long a successor has before the next death.
const SETTLE: Duration = Duration::from_millis(50);

/// How long a pause may take at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// The steps of a takeover, in their order: until the dead worker is reaped, its successor's program begins, it has the
/// escrow, has read the session's state, has opened the repository and then the view, has joined the connection and asked for
/// what was left unanswered, has answered a first request; and until whoever asked has its answer.
const STEPS: [&str; 9] =
    ["reaped", "started", "greeted", "state", "repository", "view", "joined", "answered", "heard"];

/// What a program at work does, in a directory of its own.
const WORK: &str = "mkdir -p $1; cd $1; while :; do echo some text > a; cat a > b; mv b c; rm a c; done";

/// A situation.
#[derive(Debug, Clone, Copy, Default)]
struct Situation {
    /// Programs at work.
    programs: usize,
    /// Files in the tree, which the kernel knows all.
    files: usize,
    /// Memory that each worker has resident when it dies, in MiB.
    resident: usize,
    /// Names that are changed before each death.
    changes: usize,
}

fn main() -> Result<()> {
    let mut numbers = Vec::new();
    for word in std::env::args().skip(1) {
        numbers.push(word.parse().with_context(|| format!("{word} is no number"))?);
    }
    let (kills, files) = match numbers.split_first() {
        None => (KILLS, &FILES[..]),
        Some((kills, [])) => (*kills, &FILES[..]),
        Some((kills, files)) => (*kills, files),
    };
    measure("idle", kills, Situation::default())?;
    measure("four programs at work", kills, Situation { programs: 4, ..Situation::default() })?;
    for files in files {
        measure(&format!("{files} known files"), kills, Situation { files: *files, ..Situation::default() })?;
    }
    for resident in [64, 256] {
        measure(&format!("{resident} MiB resident"), kills, Situation { resident, ..Situation::default() })?;
    }
    let changes = Situation { changes: CHANGES, ..Situation::default() };
    measure(&format!("{CHANGES} changes before"), kills, changes)
}

/// A program that is ended when its value goes.
struct Working(Child);

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When each step was reached after the death, in their order; a step that is not known took no time.
type Pause = [Duration; STEPS.len()];

fn measure(name: &str, kills: usize, situation: Situation) -> Result<()> {
    let live = Live::with_files(situation.files)?;
    let mount = live.recovering_with(situation.resident)?;
    let place = mount.mount().path.clone();
    // Known by its path alone: a process that starts workers must not have a file of the mount open.
    let file = rustix::fs::open(
        place.join(Live::last_of(situation.files)),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let known = Command::new("find").arg(&place).args(["-type", "f", "-size", "-1"]).output()?;
    ensure!(known.status.success(), "find: {known:?}");
    let working: Vec<Working> = (0..situation.programs)
        .map(|number| {
            Command::new("sh")
                .args(["-c", WORK, "sh"])
                .arg(place.join(format!("program{number}")))
                .stdout(Stdio::null())
                .spawn()
                .map(Working)
        })
        .collect::<Result<_, _>>()?;
    let mut pauses = Vec::with_capacity(kills);
    let mut resident = Vec::with_capacity(kills);
    for _ in 0..kills {
        std::thread::sleep(SETTLE);
        wait_ready(&mount, situation.resident)?;
        change_names(&place, situation.changes)?;
        resident.push(resident_of(&mount));
        pauses.push(pause(&mount, &live, &file)?);
    }
    ensure!(mount.restarts() as usize == kills, "{} restarts, {kills} kills", mount.restarts());
    drop(working);
    drop(file);
    resident.sort_unstable();
    println!(
        "{name:22} {kills} kills   {}   {} MiB resident",
        Figures::of(pauses.iter().map(|pause| pause[STEPS.len() - 1]).collect()),
        resident.get(resident.len() / 2).copied().unwrap_or_default(),
    );
    let parts: Vec<String> = STEPS
        .iter()
        .enumerate()
        .map(|(step, name)| {
            let since = |pause: &Pause| if step == 0 { Duration::ZERO } else { pause[step - 1] };
            let took = pauses.iter().map(|pause| pause[step].saturating_sub(since(pause)));
            format!("{name} {:.1?}", Figures::of(took.collect()).median)
        })
        .collect();
    println!("{:22} {}", "", parts.join(", "));
    Ok(())
}

/// Makes a file, and gives it another name so many times.
fn change_names(place: &Path, changes: usize) -> Result<()> {
    if changes > 0 {
        fs::write(place.join("name0"), "")?;
    }
    for number in 0..changes {
        fs::rename(place.join(format!("name{number}")), place.join(format!("name{}", number + 1)))?;
    }
    Ok(())
}

/// The memory that the worker has resident, in MiB.
fn resident_of(mount: &Supervisor) -> usize {
    let kib = resident(mount.pid()).unwrap_or_default();
    usize::try_from(kib >> 10).unwrap_or(usize::MAX)
}

/// Waits until a worker serves, and has so many MiB resident.
fn wait_ready(mount: &Supervisor, resident: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while mount.state() != State::Ready || resident_of(mount) < resident {
        ensure!(Instant::now() < deadline, "no worker serves");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Nanoseconds of the monotonic clock.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)).unwrap_or_default()
}

/// From the death of the worker to the answer of its successor.
fn pause(mount: &Supervisor, live: &Live, file: &OwnedFd) -> Result<Pause> {
    let worker = mount.pid();
    let pid = i32::try_from(worker).ok().and_then(Pid::from_raw).context("the worker's pid")?;
    let begun = now();
    kill_process(pid, Signal::KILL)?;
    // A worker that is dying may still answer; one that is reaped does not.
    while mount.worker_pid() == Some(worker) {
        std::thread::sleep(Duration::from_micros(50));
    }
    let reaped = now();
    // The kernel answers this from nothing that it knows.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    statx(file, "", flags, StatxFlags::BASIC_STATS)?;
    let heard = now();
    wait_ready(mount, 0)?;
    let reached = live.steps(mount.pid())?;
    let mut pause = Pause::default();
    let mut last = begun;
    for (at, step) in STEPS.iter().enumerate() {
        let time = match *step {
            "reaped" => Some(reaped),
            "heard" => Some(heard),
            step => reached.iter().find(|(name, _)| name == step).map(|(_, time)| *time),
        };
        last = last.max(time.unwrap_or(last)).min(heard);
        pause[at] = Duration::from_nanos(last - begun);
    }
    Ok(pause)
}
