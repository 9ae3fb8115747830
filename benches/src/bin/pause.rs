//! How long a mount pauses when its worker is killed: from the SIGKILL to the first request that is answered.
//!
//! `pause [KILLS [FILES]...]` prints the median, the 99th percentile and the longest of each situation: nobody else at
//! work; four programs at work; so many files known to the kernel (10, 10 000 and 1 000 000, or those that are given);
//! workers with 64 and 256 MiB of memory resident. Behind each stands where the median goes: until the dead worker is
//! reaped, until its successor serves, until the answer. With a release build, on an idle machine.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use selvedge_bench::{Figures, Live};
use selvedge_supervisor::{State, Supervisor};

/// Kills in each situation unless the command line says otherwise.
const KILLS: usize = 100;

/// Known files unless the command line says otherwise.
const FILES: [usize; 3] = [10, 10_000, 1_000_000];

/// How long a successor has before the next death.
const SETTLE: Duration = Duration::from_millis(50);

/// How long a pause may take at all.
const PATIENCE: Duration = Duration::from_secs(30);

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
    Ok(())
}

/// A program that is ended when its value goes.
struct Working(Child);

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pause, and its parts.
struct Pause {
    reaped: Duration,
    served: Duration,
    answered: Duration,
}

fn measure(name: &str, kills: usize, situation: Situation) -> Result<()> {
    let live = Live::with_files(situation.files)?;
    let mount = live.recovering_with(situation.resident)?;
    let place = mount.mount().path.clone();
    // Known by its path alone: a process that starts workers must not have a file of the mount open.
    let directory = rustix::fs::open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
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
        resident.push(resident_of(&mount));
        pauses.push(pause(&mount, &directory)?);
    }
    ensure!(mount.restarts() as usize == kills, "{} restarts, {kills} kills", mount.restarts());
    drop(working);
    drop(directory);
    let median = |part: fn(&Pause) -> Duration| Figures::of(pauses.iter().map(part).collect()).median;
    let (reaped, served) = (median(|pause| pause.reaped), median(|pause| pause.served));
    let answered = median(|pause| pause.answered);
    resident.sort_unstable();
    println!(
        "{name:22} {kills} kills   {}   reaped {reaped:.1?}, served {served:.1?}, answered {answered:.1?}, {} MiB resident",
        Figures::of(pauses.iter().map(|pause| pause.reaped + pause.served + pause.answered).collect()),
        resident.get(resident.len() / 2).copied().unwrap_or_default(),
    );
    Ok(())
}

/// The memory that the worker has resident, in MiB.
fn resident_of(mount: &Supervisor) -> usize {
    let pages = fs::read_to_string(format!("/proc/{}/statm", mount.pid())).ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    (pages.unwrap_or_default() * rustix::param::page_size()) >> 20
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

/// From the death of the worker to the answer of its successor.
fn pause(mount: &Supervisor, directory: &OwnedFd) -> Result<Pause> {
    let worker = mount.pid();
    let pid = i32::try_from(worker).ok().and_then(Pid::from_raw).context("the worker's pid")?;
    let begun = Instant::now();
    kill_process(pid, Signal::KILL)?;
    // A worker that is dying may still answer; one that is reaped does not.
    while mount.worker_pid() == Some(worker) {
        std::thread::sleep(Duration::from_micros(100));
    }
    let reaped = begun.elapsed();
    // The kernel answers this from nothing that it knows.
    let answer = std::thread::scope(|scope| {
        let asker = scope.spawn(|| rustix::fs::fstatvfs(directory).map(|_| begun.elapsed()));
        let mut served = None;
        while !asker.is_finished() {
            if served.is_none() && mount.state() == State::Ready {
                served = Some(begun.elapsed());
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        asker.join().map(|answered| (answered, served))
    });
    let Ok((answered, served)) = answer else { anyhow::bail!("the asker panicked") };
    let answered = answered?;
    let served = served.unwrap_or(answered).clamp(reaped, answered);
    Ok(Pause { reaped, served: served.saturating_sub(reaped), answered: answered.saturating_sub(served) })
}
