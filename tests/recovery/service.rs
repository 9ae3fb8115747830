//! Mounts in the background, whose service and workers are killed: one at a time, which nobody notices, and together,
//! which ends the mounts and loses nothing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::process::Signal;
use selvedge_test_support::{copy_program, wait_until};
use serde_json::{Value, json};

use crate::application::Application;
use crate::chaos::{KILLS, Loads, kills, seed};
use crate::model::Model;
use crate::random::Random;
use crate::sandbox::{Sandbox, eventually, runs, signal};
use crate::scene::{AS_NOBODY, SOON, fill, give};
use crate::writer::{Knowledge, Writers};

/// How a process is killed.
const DEATHS: [Signal; 3] = [Signal::KILL, Signal::ABORT, Signal::SEGV];

/// The longest pause before something is killed, in milliseconds.
const LONGEST: usize = 700;

/// The processes of a mount.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Processes {
    service: u32,
    worker: u32,
}

/// The mount's processes, if it is ready.
fn processes(sandbox: &Sandbox) -> Option<Processes> {
    let list: Value = serde_json::from_str(&sandbox.run(["--json", "list"]).ok().stdout).unwrap();
    let mount = list.get(0)?;
    let pid = |name: &str| u32::try_from(mount[name].as_u64()?).ok();
    let there = Processes { service: pid("supervisor_pid")?, worker: pid("worker_pid")? };
    (mount["state"] == json!("ready")).then_some(there)
}

/// Waits until the mount is ready with other processes than `before`.
#[track_caller]
fn replaced(sandbox: &Sandbox, is_another: impl Fn(Processes) -> bool) -> Processes {
    let mut found = None;
    wait_until("another process, and a mount that is ready", 2 * SOON, || {
        found = processes(sandbox).filter(|now| is_another(*now));
        found.is_some()
    });
    found.unwrap()
}

/// Kills a process with `signal`, which it may have to get twice.
fn kill(pid: u32, with: Signal) {
    wait_until("death", SOON, || {
        !runs(pid) || {
            signal(pid, with);
            std::thread::sleep(Duration::from_millis(1));
            !runs(pid)
        }
    });
}

/// Adds what the programs want to a sandbox's tree.
fn furnish(sandbox: &Sandbox, user: bool) {
    fill(&sandbox.repo());
    if user {
        for name in ["w0", "w1", "many", "large"] {
            give(&sandbox.repo().join(name));
        }
    }
    sandbox.run(["import"]).ok();
}

/// Kills the service or the worker, again and again, while programs use the mount; `command` starts them.
fn one_at_a_time(sandbox: &Sandbox, command: &[&str]) {
    sandbox.background("main", "m");
    let (kills, mut random) = (kills(KILLS), Random::new(seed()));
    let place = sandbox.path("m");
    let load = |role| Application::start_by(command, role, &place, seed());
    let mut loads = Loads::new(vec![load("system calls"), load("programs")]);
    let mut now = replaced(sandbox, |_| true);
    let mut services = 0;
    for _ in 0..kills {
        let before = loads.calls();
        std::thread::sleep(Duration::from_millis(1 + random.below(LONGEST) as u64));
        loads.wait_at_work(&before);
        let death = DEATHS[random.below(DEATHS.len())];
        if random.below(2) == 0 {
            kill(now.worker, death);
            now = replaced(sandbox, |then| then.worker != now.worker && then.service == now.service);
            continue;
        }
        services += 1;
        let mut death = death;
        if random.below(2) == 0 {
            // Nobody needs the service meanwhile.
            signal(now.service, Signal::STOP);
            loads.wait_at_work(&loads.calls());
            if random.below(2) == 0 {
                signal(now.service, Signal::CONT);
                assert!(replaced(sandbox, |_| true) == now, "it goes on");
                continue;
            }
            // The only signal that one that is stopped dies of.
            death = Signal::KILL;
        }
        kill(now.service, death);
        now = replaced(sandbox, |then| then.service != now.service && then.worker == now.worker);
    }
    let calls = loads.end();
    eprintln!("{kills} deaths, {services} of them the service's; {calls} calls verified");
    sandbox.run(["unmount", "main"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn nobody_notices_that_service_and_workers_are_killed_in_turn() {
    let sandbox = Sandbox::new();
    furnish(&sandbox, false);
    one_at_a_time(&sandbox, &[std::env::current_exe().unwrap().to_str().unwrap()]);
}

#[test]
fn nobody_notices_that_an_ordinary_users_service_and_workers_are_killed_in_turn() {
    let sandbox = Sandbox::unprivileged();
    furnish(&sandbox, true);
    let program = sandbox.path("application");
    copy_program(std::env::current_exe().unwrap().to_str().unwrap(), &program);
    let command: Vec<&str> =
        ["setpriv"].into_iter().chain(AS_NOBODY).chain([program.to_str().unwrap()]).collect();
    one_at_a_time(&sandbox, &command);
}

#[test]
fn what_was_acknowledged_is_there_when_service_and_worker_are_killed_together() {
    let sandbox = Sandbox::new();
    furnish(&sandbox, false);
    sandbox.background("main", "m");
    let (rounds, mut random) = (kills(4), Random::new(seed()));
    let directories = ["w0", "w1"].map(|name| sandbox.path("m").join(name));
    let mut known = directories.each_ref().map(|at| Knowledge::of(Model::scan(at))).to_vec();
    for round in 0..rounds {
        let writers = Writers::start(&sandbox.path("m"), known.clone(), u64::from(round) + 100 * seed());
        writers.wait_for(100);
        std::thread::sleep(Duration::from_millis(random.below(300) as u64));
        sandbox.kill_all();
        let ended = writers.ended();
        sandbox.run(["service", "start"]).ok();
        eventually("the mount is there again", || processes(&sandbox).is_some());
        let check = |(at, known): (&std::path::PathBuf, &Knowledge)| {
            known.check(&Model::scan(at), &format!("round {round}, {}", at.display()))
        };
        known = directories.iter().zip(&ended).map(check).collect();
    }
    sandbox.run(["unmount", "main"]).ok();
}

/// Blocks of a file that are written over and over.
const BLOCKS: usize = 64;
const BLOCK: usize = 4096;

#[test]
fn what_was_synced_is_there_when_service_and_worker_are_killed_together_and_writes_were_held_back() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("m").join("blocks");
    let mounted = sandbox.json(["mount", "main", "../m", "--set", "mount.writeback=true"]);
    assert_eq!(mounted["writeback"], json!(true));
    let mut random = Random::new(seed());
    for round in 0..u8::try_from(kills(4)).unwrap_or(250) {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let overwrite =
            |byte| (0..BLOCKS).for_each(|at| file.write_all_at(&[byte; BLOCK], (at * BLOCK) as u64).unwrap());
        overwrite(round);
        file.sync_all().unwrap();
        let (synced, renamed) = (path.with_extension("synced"), path.with_extension(format!("{round}")));
        fs::write(&synced, [round; 100]).unwrap();
        File::open(&synced).unwrap().sync_all().unwrap();
        fs::rename(&synced, &renamed).unwrap();
        overwrite(round + 1);
        std::thread::sleep(Duration::from_millis(random.below(300) as u64));
        sandbox.kill_all();
        assert!(file.sync_all().is_err(), "nobody says that what is lost is durable");
        drop(file);
        sandbox.run(["service", "start"]).ok();
        eventually("the mount is there again", || processes(&sandbox).is_some());
        let blocks = fs::read(&path).unwrap();
        assert_eq!(blocks.len(), BLOCKS * BLOCK);
        assert!(blocks.iter().all(|byte| (round..=round + 1).contains(byte)), "round {round}");
        assert_eq!(fs::read(&renamed).unwrap(), [round; 100]);
    }
    sandbox.run(["unmount", "main"]).ok();
}
