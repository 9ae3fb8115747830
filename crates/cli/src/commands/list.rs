//! `selvedge list`

use std::path::Path;

use crate::context::Context;
use crate::control::MountDocument;
use crate::error::Result;
use crate::standing::live_mounts;
use crate::ui::{show, table};

/// List mounted threads
///
/// Shows the caller's mounts of every repository. What a process that died left behind (mount, worker, records)
/// is cleaned up and named on standard error.
#[derive(Debug, clap::Args)]
pub struct ListArgs {}

/// Runs the command.
pub fn run(context: &Context, ListArgs {}: ListArgs) -> Result<()> {
    let documents: Vec<MountDocument> =
        live_mounts(&context.runtime()?, context.ui)?.into_iter().map(|(_, document)| document).collect();
    context.ui.result(&documents, || {
        let rows: Vec<_> = documents.iter().map(row).collect();
        table(["THREAD", "MOUNTED ON", "STATE", "WORKER", "UPTIME", "REPOSITORY"], &rows)
    })
}

fn row(mount: &MountDocument) -> [String; 6] {
    let path = |path: &Path| show(path);
    [
        mount.thread.clone(),
        path(mount.mountpoint.as_path()),
        mount.state.as_str().to_owned(),
        mount.worker_pid.map_or("-".to_owned(), |pid| pid.to_string()),
        uptime(mount.uptime_s),
        path(mount.repo.as_path()),
    ]
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
