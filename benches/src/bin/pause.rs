//! How long a mount pauses when its worker is killed: from the SIGKILL to the first request that is answered.
//!
//! `pause [KILLS]` prints the median, the 99th percentile and the longest of each of three situations: nobody else at
//! work; four programs at work; ten thousand files known to the kernel. With a release build, on an idle machine.

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

/// How long a successor has before the next death.
const SETTLE: Duration = Duration::from_millis(50);

/// How long a pause may take at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a program at work does, in a directory of its own.
const WORK: &str = "mkdir -p $1; cd $1; while :; do echo some text > a; cat a > b; mv b c; rm a c; done";

fn main() -> Result<()> {
    let kills =
        std::env::args().nth(1).map_or(Ok(KILLS), |text| text.parse()).context("KILLS is a number")?;
    measure("idle", kills, 0, 0)?;
    measure("four programs at work", kills, 4, 0)?;
    measure("10 000 known files", kills, 0, 10_000)
}

/// A program that is ended when its value goes.
struct Working(Child);

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(situation: &str, kills: usize, programs: usize, files: usize) -> Result<()> {
    let live = Live::with_files(files)?;
    let mount = live.recovering()?;
    let place = mount.mount().path.clone();
    // Known by its path alone: a process that starts workers must not have a file of the mount open.
    let directory = rustix::fs::open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let known = Command::new("find").arg(&place).args(["-type", "f", "-size", "-1"]).output()?;
    ensure!(known.status.success(), "find: {known:?}");
    let working: Vec<Working> = (0..programs)
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
    for _ in 0..kills {
        std::thread::sleep(SETTLE);
        pauses.push(pause(&mount, &directory)?);
    }
    ensure!(mount.restarts() as usize == kills, "{} restarts, {kills} kills", mount.restarts());
    drop(working);
    drop(directory);
    println!("{situation:22} {kills} kills   {}", Figures::of(pauses));
    Ok(())
}

/// From the death of the worker to the answer of its successor.
fn pause(mount: &Supervisor, directory: &OwnedFd) -> Result<Duration> {
    let deadline = Instant::now() + PATIENCE;
    while mount.state() != State::Ready {
        ensure!(Instant::now() < deadline, "no worker serves");
        std::thread::sleep(Duration::from_millis(1));
    }
    let worker = mount.pid();
    let pid = i32::try_from(worker).ok().and_then(Pid::from_raw).context("the worker's pid")?;
    let begun = Instant::now();
    kill_process(pid, Signal::KILL)?;
    // A worker that is dying may still answer; one that is reaped does not.
    while mount.worker_pid() == Some(worker) {
        std::thread::sleep(Duration::from_micros(100));
    }
    // The kernel answers this from nothing that it knows.
    rustix::fs::fstatvfs(directory)?;
    Ok(begun.elapsed())
}
