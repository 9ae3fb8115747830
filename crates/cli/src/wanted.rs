//! Mounts that nobody wanted to end: written down, so that they can be made again when everything was killed or
//! the machine was restarted.
//!
//! The service writes a plan down when its mount is ready and strikes it out when somebody unmounts it. What is
//! written down and not there is *lost*; one that was given up, because no successor served it, is written down with the
//! reason. It lies in the directory of its boot: a service makes again what was lost in
//! its own boot; what an earlier boot left waits for `mount --restore`.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Dir, Mode, OFlags, openat, renameat};
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Result};
use crate::json_file;
use crate::plan::Plan;
use crate::record::{MountId, Record};
use crate::runtime::{RuntimeDir, WANTED};
use crate::ui::show;

/// The version of these files. Those of another version are another program's business.
pub(crate) const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    version: u32,
    plan: Plan,
    /// Why it was given up, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

/// Writes down that `plan`'s mount is wanted.
pub fn write(runtime: &RuntimeDir, plan: &Plan) -> Result<()> {
    write_with(runtime, plan, None)
}

/// Writes down, beside what is wanted, that it was given up, and why. What nobody wants any more stays so.
pub fn fail(runtime: &RuntimeDir, request: &MountId, why: &str) -> Result<()> {
    match all(runtime)?.iter().find(|plan| plan.request == *request) {
        Some(plan) => write_with(runtime, plan, Some(why.to_owned())),
        None => Ok(()),
    }
}

fn write_with(runtime: &RuntimeDir, plan: &Plan, failed: Option<String>) -> Result<()> {
    json_file::write(
        runtime.wanted(),
        plan.request.as_str(),
        &Wanted { version: VERSION, plan: plan.without_environment(), failed },
    )
    .map_err(|error| CliError::io(cannot("write down a mount", runtime), &error))
}

/// Why the wanted mounts that were given up were.
pub fn failures(runtime: &RuntimeDir) -> Result<HashMap<MountId, String>> {
    let files = json_file::read_all::<Wanted>(runtime.wanted())
        .map_err(|error| CliError::io(cannot("list what is wanted", runtime), &error))?;
    Ok(files.into_iter().filter_map(|(_, wanted)| Some((wanted.plan.request, wanted.failed?))).collect())
}

/// Strikes out a mount that is not wanted any more. `false` if it was not written down.
pub fn remove(runtime: &RuntimeDir, request: &MountId) -> Result<bool> {
    json_file::remove(runtime.wanted(), request.as_str())
        .map_err(|error| CliError::io(cannot("strike out a mount", runtime), &error))
}

/// What is wanted in this boot, in the order of repository and thread.
pub fn all(runtime: &RuntimeDir) -> Result<Vec<Plan>> {
    let files = json_file::read_all::<Wanted>(runtime.wanted())
        .map_err(|error| CliError::io(cannot("list what is wanted", runtime), &error))?;
    let mut plans: Vec<Plan> = files
        .into_iter()
        .filter(|(stem, wanted)| wanted.version == VERSION && wanted.plan.request.as_str() == stem)
        .map(|(_, wanted)| wanted.plan)
        .collect();
    plans.sort_by(|a, b| (&a.repo, &a.thread, &a.request).cmp(&(&b.repo, &b.thread, &b.request)));
    Ok(plans)
}

/// Whether the mount is written down.
pub fn is_written(runtime: &RuntimeDir, request: &MountId) -> Result<bool> {
    Ok(all(runtime)?.iter().any(|plan| plan.request == *request))
}

/// What is wanted in this boot, and of which `records` know nothing.
pub fn lost(runtime: &RuntimeDir, records: &[Record]) -> Result<Vec<Plan>> {
    let mut plans = all(runtime)?;
    plans.retain(|plan| !records.iter().any(|record| record.request.as_ref() == Some(&plan.request)));
    Ok(plans)
}

/// How many mounts an earlier boot left.
pub fn earlier(runtime: &RuntimeDir) -> usize {
    let count =
        |wanted: &OwnedFd| json_file::read_all::<Wanted>(wanted.as_fd()).map_or(0, |files| files.len());
    earlier_directories(runtime).iter().map(count).sum()
}

/// Takes what earlier boots left into this one.
pub fn take_over(runtime: &RuntimeDir) -> Result<()> {
    for directory in earlier_directories(runtime) {
        let files = json_file::read_all::<Wanted>(directory.as_fd())
            .map_err(|error| CliError::io(cannot("list what was wanted", runtime), &error))?;
        for (stem, _) in files {
            let name = format!("{stem}.json");
            renameat(&directory, &name, runtime.wanted(), &name)
                .map_err(|errno| CliError::io(cannot("take over what was wanted", runtime), &errno.into()))?;
        }
    }
    Ok(())
}

/// The `wanted` of every other boot. Those of this boot in other mount namespaces belong to services there.
fn earlier_directories(runtime: &RuntimeDir) -> Vec<OwnedFd> {
    let boot = |name: &str| name.split_once('-').map(|(boot, _)| boot.to_owned());
    let own = runtime.path().file_name().and_then(|name| boot(name.to_str()?));
    let Ok(instances) = Dir::read_from(runtime.base()) else { return Vec::new() };
    instances
        .filter_map(|entry| entry.ok()?.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| boot(name).is_some_and(|boot| Some(boot) != own))
        .filter_map(|name| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(runtime.base(), PathBuf::from(name).join(WANTED), flags, Mode::empty()).ok()
        })
        .collect()
}

fn cannot(what: &str, runtime: &RuntimeDir) -> String {
    format!("cannot {what} in {}", show(runtime.path()))
}
