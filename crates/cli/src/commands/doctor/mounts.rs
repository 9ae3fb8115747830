//! How the mounts of the service do: restarts, and what the last worker died of.

use std::time::{Duration, Instant};

use super::Check;
use crate::control::{Client, MountDocument, MountState};
use crate::error::Result;
use crate::runtime::RuntimeDir;
use crate::ui::show;

/// How long the service may take to say how its mounts are.
const ANSWER: Duration = Duration::from_millis(700);

/// So many workers in one mount are more than bad luck.
const MANY: u32 = 3;

/// Each mount, and whether it is as it should be. The mounts themselves are not asked.
pub(super) fn mounts(runtime: &Result<RuntimeDir>) -> Check {
    let name = "mounts";
    let Ok(runtime) = runtime else {
        return Check::bad(name, "cannot tell without the runtime directory", "see runtime_dir");
    };
    let deadline = Instant::now() + ANSWER;
    let Ok(mut client) = Client::service(runtime, deadline) else {
        return Check::good(name, "there is no service that holds any");
    };
    match client.mounts(deadline) {
        Ok(mounts) => judge(&mounts),
        Err(error) => Check::from_error(name, error),
    }
}

fn judge(mounts: &[MountDocument]) -> Check {
    let name = "mounts";
    if mounts.is_empty() {
        return Check::good(name, "none");
    }
    let told: Vec<String> = mounts.iter().map(tell).collect();
    let told = told.join("; ");
    let is_hurt = |mount: &&MountDocument| {
        matches!(mount.state, MountState::Stuck | MountState::Failed | MountState::Detached)
    };
    if let Some(hurt) = mounts.iter().find(is_hurt) {
        let place = show(hurt.mountpoint.as_path());
        return Check::bad(
            name,
            told,
            format!(
                "its log says more (selvedge service status names the place); selvedge unmount --force {place} takes it down, and nothing acknowledged is lost"
            ),
        );
    }
    if mounts.iter().any(|mount| mount.restarts >= MANY) {
        return Check::bad(
            name,
            told,
            "workers die again and again: their logs say of what (selvedge service status names the place); please report it",
        );
    }
    Check::good(name, told)
}

fn tell(mount: &MountDocument) -> String {
    let restarts = match (mount.restarts, &mount.last_crash) {
        (0, _) => String::new(),
        (restarts, Some(cause)) => format!(", restarts: {restarts}, the last after {cause}"),
        (restarts, None) => format!(", restarts: {restarts}"),
    };
    format!(
        "thread {} on {}: {}{restarts}",
        mount.thread,
        show(mount.mountpoint.as_path()),
        mount.state.as_str()
    )
}
