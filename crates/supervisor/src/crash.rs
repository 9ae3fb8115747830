//! Named points at which a test lets the process that supervises die, or stand still.
//!
//! A point is armed once, by name, as `[stop@]NAME[:N]`. The N-th time (default: the first) that the process passes there
//! it kills itself (SIGKILL), or stops itself (SIGSTOP) with the `stop@` prefix. An unarmed point costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// Every point on the way from one worker to the next: after a death, in the order in which they are passed.
pub const SUCCESSION: &[&str] = &[
    "succession.reaped",
    "succession.started",
    "succession.told",
    "succession.greeted",
    "succession.serves",
];

/// Every point on the way from a worker that serves to one of another program, in the order in which they are passed; the
/// last of [`SUCCESSION`] follows.
pub const RENEWAL: &[&str] = &[
    "renewal.asked",
    "renewal.let-go",
    "renewal.started",
    "renewal.told",
    "renewal.greeted",
    "renewal.killed",
];

/// How long a process may take to stop that has told itself to.
const STOPPING: Duration = Duration::from_millis(100);

/// The armed point.
#[derive(Debug)]
struct Armed {
    name: &'static str,
    stops: bool,
    /// How often it is still to be passed.
    left: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// Arms a point of this crate or one of `others`, for the rest of the process's life; the first one counts.
pub fn arm(text: &str, others: &[&'static str]) -> Result<(), String> {
    let armed = parse(text, others)?;
    let _ = ARMED.set(armed);
    Ok(())
}

fn parse(text: &str, others: &[&'static str]) -> Result<Armed, String> {
    let (stops, rest) = text.strip_prefix("stop@").map_or((false, text), |rest| (true, rest));
    let (name, count) = rest.split_once(':').unwrap_or((rest, "1"));
    let known = SUCCESSION.iter().chain(RENEWAL).chain(others).find(|known| **known == name);
    let name = known.ok_or_else(|| format!("there is no point {name:?}"))?;
    let count = count.parse().ok().filter(|count| *count > 0);
    let count: u64 = count.ok_or_else(|| format!("{text:?} does not say how manieth time is meant"))?;
    Ok(Armed { name, stops, left: AtomicU64::new(count) })
}

/// The process is at the point `name`.
pub fn point(name: &'static str) {
    let Some(armed) = ARMED.get() else { return };
    if armed.name != name || armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    if armed.stops {
        let _ = kill_process(getpid(), Signal::STOP);
        return thread::sleep(STOPPING);
    }
    loop {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_armed_by_name_and_number() {
        let armed = parse("renewal.killed", &[]).unwrap();
        assert_eq!((armed.name, armed.stops, armed.left.into_inner()), ("renewal.killed", false, 1));
        let armed = parse("stop@own:3", &["own"]).unwrap();
        assert_eq!((armed.name, armed.stops, armed.left.into_inner()), ("own", true, 3));
        for bad in ["", "own", "renewal", "renewal.killed:0", "renewal.killed:x", "halt@renewal.killed"] {
            parse(bad, &[]).unwrap_err();
        }
    }

    #[test]
    fn points_that_are_not_armed_are_passed() {
        SUCCESSION.iter().chain(RENEWAL).for_each(|name| point(name));
    }
}
