//! `selvedge list`

use std::path::Path;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::control::{MountDocument, MountState};
use crate::error::Result;
use crate::record::Record;
use crate::standing::{self, live_mounts};
use crate::ui::{human_bytes, show, table};
use crate::{service, wanted};

/// How long a service that is just coming up or going down is waited for.
const SETTLE: Duration = Duration::from_millis(600);

/// List mounted threads
///
/// Shows the caller's mounts of every repository. What a process that died left behind (mount, worker, records)
/// is cleaned up and named on standard error. A mount of this boot that nobody unmounted, and that is gone, is
/// listed as lost: selvedge mount --restore makes it again, selvedge unmount forgets it.
#[derive(Debug, clap::Args)]
pub struct ListArgs {}

/// Runs the command.
pub fn run(context: &Context, ListArgs {}: ListArgs) -> Result<()> {
    let runtime = context.runtime()?;
    service::settle(&runtime, Instant::now() + SETTLE);
    let live = live_mounts(&runtime, context.ui)?;
    let mut documents: Vec<MountDocument> = live.into_iter().map(|(_, document)| document).collect();
    let lost = wanted::lost(&runtime, &Record::all(&runtime)?)?;
    let failures = wanted::failures(&runtime)?;
    documents.extend(lost.iter().map(|plan| standing::lost(plan, failures.get(&plan.request))));
    let earlier = wanted::earlier(&runtime);
    if earlier > 0 {
        context.ui.note(format!(
            "mounts that were wanted before the machine was restarted: {earlier}; selvedge mount --restore makes them again"
        ));
    }
    context.ui.result(&documents, || {
        let rows: Vec<_> = documents.iter().map(row).collect();
        let headings = [
            "THREAD",
            "MOUNTED ON",
            "STATE",
            "WORKER",
            "REQUESTS/S",
            "PASSED",
            "MEMORY",
            "UPTIME",
            "REPOSITORY",
        ];
        table(headings, &rows)
    })
}

fn row(mount: &MountDocument) -> [String; 9] {
    let path = |path: &Path| show(path);
    [
        mount.thread.clone(),
        path(mount.mountpoint.as_path()),
        match mount.restarts {
            0 => mount.state.as_str().to_owned(),
            restarts => {
                let cause = mount.last_crash.as_deref().unwrap_or("unknown");
                format!("{} (restarts: {restarts}, the last after {cause})", mount.state.as_str())
            }
        },
        mount.worker_pid.map_or("-".to_owned(), |pid| pid.to_string()),
        mount.requests_per_s.map_or("-".to_owned(), |rate| rate.to_string()),
        passed(mount),
        mount.memory.map_or("-".to_owned(), human_bytes),
        if mount.state == MountState::Lost { "-".to_owned() } else { uptime(mount.uptime_s) },
        path(mount.repo.as_path()),
    ]
}

/// How many of the files that were opened the kernel reads and writes itself.
fn passed(mount: &MountDocument) -> String {
    match (mount.passthrough.active, mount.opens, mount.passed_opens) {
        (true, Some(opens), Some(passed)) => format!("{passed}/{opens}"),
        _ => "-".to_owned(),
    }
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::uptime;

    #[test]
    fn uptimes_have_two_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m1s"), (3_660, "1h1m"), (90_000, "1d1h")] {
            assert_eq!(uptime(seconds), text);
        }
    }
}
