//! Who dies, and when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use selvedge_test_support::wait_until;
use serde_json::{Value, json};

use crate::line::Line;
use crate::random::Random;
use crate::sandbox::{Stray, runs, signal};
use crate::world::World;

/// How a process dies.
const DEATHS: [Signal; 3] = [Signal::KILL, Signal::ABORT, Signal::SEGV];

/// How long what died may take to be replaced on a busy machine.
const SOON: Duration = Duration::from_mins(1);

/// The longest pause before the next death, in milliseconds.
const LONGEST: usize = 400;

fn pid(mount: &Value, name: &str) -> Option<u32> {
    u32::try_from(mount[name].as_u64()?).ok()
}

/// Kills a process, which it may have to be told twice.
fn kill(pid: u32, with: Signal) {
    let target = Pid::from_raw(pid.cast_signed()).unwrap();
    wait_until("death", SOON, || {
        !runs(pid) || {
            let _ = kill_process(target, with);
            std::thread::sleep(Duration::from_millis(1));
            !runs(pid)
        }
    });
}

/// Waits until every mount is served and neither the worker nor the service is `dead`. The next death must not meet
/// a mount that is still being recovered from this one: that would be two at once.
fn recovered(world: &World, dead: u32) {
    wait_until("mounts that are ready again", SOON, || {
        world.mounts().is_some_and(|mounts| {
            mounts.iter().all(|mount| {
                let is_another = |name| pid(mount, name).is_some_and(|pid| pid != dead);
                mount["state"] == json!("ready") && is_another("worker_pid") && is_another("supervisor_pid")
            })
        })
    });
}

/// Workers, the service, each in its turn, and `gc` beside everybody.
pub(crate) fn one_at_a_time(world: &World, random: &mut Random, enough: &AtomicBool) {
    while !enough.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1 + random.below(LONGEST) as u64));
        let (kind, which) = (random.below(6), random.below(64));
        let with = DEATHS[random.below(DEATHS.len())];
        if kind == 0 {
            world.insist(&["gc"], || false);
            continue;
        }
        let mounts = world.mounts().unwrap_or_default();
        let Some(mount) = mounts.get(which % mounts.len().max(1)) else { continue };
        let whom = if kind <= 3 { "worker_pid" } else { "supervisor_pid" };
        if let (Some(dead), true) = (pid(mount, whom), mount["state"] == json!("ready")) {
            world.count_death();
            kill(dead, with);
            recovered(world, dead);
        }
    }
}

/// Kills the service and all that it started, and commands: some may end by themselves just now. The service is stopped
/// before, so that it does nothing about the others' end.
fn kill_all(world: &World) {
    let service = world.sandbox.service_pid();
    signal(service, Signal::STOP);
    // What is killed may have started another one just now.
    wait_until("the end of everything", SOON, || {
        let all = world.sandbox.processes();
        let (last, others): (Vec<u32>, Vec<u32>) = all.iter().partition(|pid| **pid == service);
        for pid in others.into_iter().chain(last) {
            let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
        }
        all.is_empty()
    });
}

/// The service and all workers at one instant, with commands that are under way, while programs write; the next
/// service makes the mounts again.
pub(crate) fn all_at_once(world: &World, lines: &mut [Line], random: &mut Random) {
    let writers: Vec<_> = lines.iter_mut().map(|line| line.writers(world)).collect();
    for writers in &writers {
        writers.wait_for(5);
    }
    let under_way: Vec<_> = lines
        .iter()
        .map(|line| Stray::start(world.sandbox.command().args(["snapshot", line.name()])))
        .collect();
    std::thread::sleep(Duration::from_millis(random.below(200) as u64));
    world.count_death();
    kill_all(world);
    drop(under_way);
    for (line, writers) in lines.iter_mut().zip(writers) {
        line.learn(writers.ended());
    }
    world.insist(&["service", "start"], || false);
    wait_until("the mounts that were lost", SOON, || {
        let ready =
            |mounts: Vec<Value>| mounts.iter().filter(|mount| mount["state"] == json!("ready")).count();
        world.mounts().map(ready) == Some(lines.len())
    });
    lines.iter_mut().for_each(Line::outlives);
}
