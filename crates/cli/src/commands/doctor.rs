//! `selvedge doctor`

mod mounts;
mod system;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use selvedge_backing::Installed;
use selvedge_mountpoint::{escape_for_print, mountinfo};
use serde::Serialize;

use crate::context::Context;
use crate::environment::{Environment, is_executable};
use crate::error::{CliError, Result};
use crate::namespace;
use crate::plan::Plan;
use crate::record::Record;
use crate::runtime::RuntimeDir;
use crate::service::{self, Probe};
use crate::sys;
use crate::ui::{human_bytes, show, show_os};
use crate::{wanted, worker_program};

/// How long the service may take to answer.
const SETTLE: Duration = Duration::from_millis(400);

/// A disk with less room is about to refuse changes.
const LEAST_ROOM: u64 = 64 << 20;

/// Check whether this machine can mount, and say how to fix what is wrong
///
/// Looks at /dev/fuse, the mount helper, the permission to mount, passthrough, the worker's program, the runtime
/// directory, mounts that were left behind or lost, the background service and its mounts, limits, what log-out ends, and the
/// repository. Changes nothing. Exits 1 if something is wrong, and ends with what to do about it.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Try to make namespaces, and say nothing
    #[arg(long, hide = true)]
    try_namespace: bool,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the field's name is part of the command line's contract")]
struct Check {
    check: &'static str,
    ok: bool,
    /// What was found.
    detail: String,
    /// What to do about it, if anything.
    fix: Option<String>,
}

impl Check {
    fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, ok: true, detail: detail.into(), fix: None }
    }

    fn bad(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, ok: false, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn from_error(check: &'static str, error: CliError) -> Self {
        Self { check, ok: false, detail: error.message, fix: Some(error.hint) }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: &DoctorArgs) -> Result<()> {
    if args.try_namespace {
        return namespace::leave();
    }
    let privileged = may_mount_directly();
    let runtime = context.runtime();
    let checks = [
        device(Path::new("/dev/fuse")),
        helper(&context.environment, privileged),
        permission(&context.environment, privileged),
        passthrough(&context.environment, privileged),
        worker(&context.environment),
        runtime_directory(&runtime),
        stale_mounts(&runtime),
        background_service(&runtime),
        mounts::mounts(&runtime),
        lost_mounts(&runtime),
        system::limits(privileged),
        system::inotify(Path::new("/proc/sys/fs/inotify")),
        system::request_timeouts(Path::new("/proc/sys/fs/fuse")),
        system::user_namespaces(privileged),
        system::log_out(&context.environment, service_process(&runtime)),
        repository(context),
    ];
    context.ui.result(&checks, || checks.iter().map(text).chain([to_do(&checks)]).collect())?;
    match checks.iter().filter(|check| !check.ok).count() {
        0 => Ok(()),
        bad => Err(CliError::failed(format!("{bad} of {} checks failed", checks.len()))
            .hint("do what stands beside them, then run selvedge doctor again")),
    }
}

fn text(check: &Check) -> String {
    let sign = if check.ok { "ok  " } else { "BAD " };
    format!("{sign}  {}: {}\n", check.check, check.detail)
}

/// What to do about everything that is wrong.
fn to_do(checks: &[Check]) -> String {
    let fixes =
        checks.iter().filter(|check| !check.ok).filter_map(|check| Some((check.check, check.fix.as_ref()?)));
    let lines: Vec<String> = fixes.map(|(name, fix)| format!("  {name}: {fix}\n")).collect();
    if lines.is_empty() { "nothing to do\n".to_owned() } else { format!("to do:\n{}", lines.concat()) }
}

/// Whether mount(2) will do without a helper.
fn may_mount_directly() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Whether the kernel could read and write changed files itself. Without it mounts are slower, and nothing is wrong.
fn passthrough(environment: &Environment, privileged: bool) -> Check {
    let name = "passthrough";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    let version = (numbers.next().flatten().unwrap_or(0), numbers.next().flatten().unwrap_or(0));
    if version < (6, 9) {
        let served = format!("Linux {release} has none (since 6.9): file contents go through the worker");
        return Check::good(name, served);
    }
    if privileged {
        return Check::good(name, "the kernel reads and writes changed files itself");
    }
    let helper = worker_program::find(environment).map(|worker| Installed::beside(&worker));
    let why = match helper {
        Ok(Installed::Capable(program)) => {
            let by = format!("the kernel reads and writes changed files itself, through {}", show(&program));
            return Check::good(name, by);
        }
        Ok(helper) => helper.obstacle().unwrap_or_default(),
        // Said by the check of the worker.
        Err(_) => "there is no worker".to_owned(),
    };
    let served = "in mounts of yours file contents go through the worker";
    Check::good(name, format!("{served}, because it needs the capability CAP_SYS_ADMIN, and {why}"))
}

fn device(path: &Path) -> Check {
    let name = "device";
    let shown = show(path);
    let load = "load the kernel's fuse module (modprobe fuse); in a container, pass the device in (--device /dev/fuse)";
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::bad(name, format!("{shown} does not exist"), load);
        }
        Err(error) => {
            return Check::from_error(name, CliError::io(format!("cannot examine {shown}"), &error));
        }
        Ok(metadata) if !metadata.file_type().is_char_device() => {
            return Check::bad(name, format!("{shown} is not a device"), load);
        }
        Ok(_) => {}
    }
    match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Check::good(name, format!("{shown} can be opened")),
        Err(Errno::ACCESS | Errno::PERM) => Check::bad(
            name,
            format!("you may not open {shown}"),
            format!("as root: chmod 666 {shown} (udev's rule does so at boot)"),
        ),
        Err(errno) => Check::bad(name, format!("{shown} cannot be opened: {errno}"), load),
    }
}

/// The set-user-id program that mounts for ordinary users.
fn find_helper(environment: &Environment) -> Option<PathBuf> {
    ["fusermount3", "fusermount"].into_iter().find_map(|name| environment.find_program(name))
}

fn helper(environment: &Environment, privileged: bool) -> Check {
    let name = "helper";
    let install = "install the fuse3 package (apt install fuse3)";
    let Some(program) = find_helper(environment) else {
        let missing = "neither fusermount3 nor fusermount is in PATH";
        return if privileged {
            Check::good(name, format!("{missing}; it is not needed with CAP_SYS_ADMIN"))
        } else {
            Check::bad(name, format!("{missing}, and only it mounts for ordinary users"), install)
        };
    };
    let shown = show(&program);
    let set_user_id = std::fs::metadata(&program)
        .is_ok_and(|metadata| metadata.mode() & 0o4000 != 0 && metadata.uid() == 0);
    if set_user_id || privileged {
        Check::good(name, format!("{shown} is installed"))
    } else {
        Check::bad(
            name,
            format!("{shown} is not set-user-id root, so it cannot mount for you"),
            format!("as root: chown root {shown} && chmod u+s {shown}"),
        )
    }
}

fn permission(environment: &Environment, privileged: bool) -> Check {
    let name = "permission";
    if privileged {
        return Check::good(name, "this process has CAP_SYS_ADMIN and mounts by itself");
    }
    if rustix::process::geteuid().is_root() {
        return Check::bad(
            name,
            "this process is root without CAP_SYS_ADMIN, as in a container",
            "start the container with --cap-add SYS_ADMIN --device /dev/fuse",
        );
    }
    if rustix::thread::no_new_privs().unwrap_or(false) {
        return Check::bad(
            name,
            "no_new_privs is set on this process, so the helper cannot become root",
            "start it without no_new_privs (systemd: NoNewPrivileges=no; containers: without no-new-privileges)",
        );
    }
    if find_helper(environment).is_none() {
        return Check::bad(
            name,
            "this process is not root and there is no helper",
            "install the fuse3 package (apt install fuse3), or mount as root",
        );
    }
    if !sys::has_user_name(rustix::process::getuid().as_raw()) {
        return Check::bad(
            name,
            format!(
                "user {} has no name, and the helper mounts for nobody without",
                rustix::process::getuid().as_raw()
            ),
            "as root: give the user an entry in /etc/passwd",
        );
    }
    let others = if allows_other(&std::fs::read("/etc/fuse.conf").unwrap_or_default()) {
        "--allow-other is allowed"
    } else {
        "--allow-other is not (it needs user_allow_other in /etc/fuse.conf)"
    };
    Check::good(name, format!("the helper mounts on directories that you may write; {others}"))
}

/// Whether `/etc/fuse.conf` lets ordinary users let others in.
fn allows_other(configuration: &[u8]) -> bool {
    configuration.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == b"user_allow_other")
}

fn worker(environment: &Environment) -> Check {
    let name = "worker";
    match worker_program::find(environment) {
        Ok(program) if is_executable(&program) => Check::good(name, show(&program)),
        Ok(program) => Check::bad(
            name,
            format!("{} is missing or cannot be executed", show(&program)),
            "correct SELVEDGE_FUSE_WORKER_BIN, or install selvedge again",
        ),
        Err(error) => Check::from_error(name, error),
    }
}

fn runtime_directory(runtime: &Result<RuntimeDir>) -> Check {
    let name = "runtime_dir";
    match runtime {
        Ok(runtime) => Check::good(name, show(runtime.path())),
        Err(error) => Check::from_error(name, error.clone()),
    }
}

/// Mounts whose supervisor is gone. Only told here; `list` cleans up.
fn stale_mounts(runtime: &Result<RuntimeDir>) -> Check {
    let name = "stale_mounts";
    let Ok(runtime) = runtime else {
        return Check::bad(name, "cannot tell without the runtime directory", "see runtime_dir");
    };
    let records = match Record::all(runtime) {
        Ok(records) => records,
        Err(error) => return Check::from_error(name, error),
    };
    let (living, dead): (Vec<&Record>, Vec<&Record>) =
        records.iter().partition(|record| record.supervisor.runs());
    if dead.is_empty() {
        return Check::good(name, format!("none{}", unrecorded(&living)));
    }
    let told: Vec<String> = dead
        .iter()
        .map(|record| {
            let place = show(record.mountpoint.as_path());
            let state = if record.is_mounted() { "still mounted" } else { "not mounted any more" };
            format!(
                "thread {} on {place} ({state}; process {} is gone)",
                record.thread, record.supervisor.pid
            )
        })
        .collect();
    Check::bad(name, told.join("; "), "run selvedge list, which cleans up what was left behind")
}

/// Whether the service, if it is there, answers.
fn background_service(runtime: &Result<RuntimeDir>) -> Check {
    let name = "service";
    let Ok(runtime) = runtime else {
        return Check::bad(name, "cannot tell without the runtime directory", "see runtime_dir");
    };
    match service::settle(runtime, Instant::now() + SETTLE) {
        Probe::Down => Check::good(name, "not running; the first mount starts it"),
        Probe::Silent(error) | Probe::Version(error) => Check::from_error(name, error),
        Probe::Running(client) => {
            let pid = client.pid();
            Check::good(name, format!("running (process {pid})"))
        }
    }
}

/// The service's process, if it holds its lock.
fn service_process(runtime: &Result<RuntimeDir>) -> Option<u32> {
    service::lock::holder(runtime.as_ref().ok()?, service::SERVICE_LOCK)
}

/// Mounts that nobody unmounted and that are gone. Only told here.
fn lost_mounts(runtime: &Result<RuntimeDir>) -> Check {
    let name = "lost_mounts";
    let Ok(runtime) = runtime else {
        return Check::bad(name, "cannot tell without the runtime directory", "see runtime_dir");
    };
    let lost = match Record::all(runtime).and_then(|records| wanted::lost(runtime, &records)) {
        Ok(lost) => lost,
        Err(error) => return Check::from_error(name, error),
    };
    let earlier = wanted::earlier(runtime);
    let failures = wanted::failures(runtime).unwrap_or_default();
    let tell = |plan: &Plan| {
        let why = failures.get(&plan.request).map(|why| format!(" ({why})")).unwrap_or_default();
        format!("thread {} on {}{why}", plan.thread, show(plan.mountpoint.as_path()))
    };
    let mut told: Vec<String> = lost.iter().map(tell).collect();
    if earlier > 0 {
        told.push(format!("from before the machine was restarted: {earlier}"));
    }
    if told.is_empty() {
        return Check::good(name, "none");
    }
    Check::bad(
        name,
        told.join("; "),
        "selvedge mount --restore makes them again, selvedge unmount forgets one",
    )
}

/// Mounts of the caller that no record knows. They may be another runtime directory's, so nothing is wrong yet.
fn unrecorded(living: &[&Record]) -> String {
    let caller = rustix::process::geteuid().as_raw();
    let known =
        |mount_id: u64| living.iter().any(|r| r.mount.as_ref().is_some_and(|m| m.mount_id == mount_id));
    let places: Vec<String> = mountinfo::read()
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.is_selvedge() && entry.user_id() == Some(caller) && !known(entry.mount_id))
        .map(|entry| {
            format!("{} ({})", show(&entry.mount_point), escape_for_print(show_os(&entry.source).as_bytes()))
        })
        .collect();
    if places.is_empty() {
        return String::new();
    }
    format!("; mounts that this runtime directory does not know: {}", places.join(", "))
}

fn repository(context: &Context) -> Check {
    let name = "repository";
    let found = context.named_repository().and_then(|named| match named {
        Some(named) => Ok(Some(named)),
        None => context.found_repository(),
    });
    match found {
        Ok(None) => Check::good(name, "none named, and none at or above the current directory"),
        Ok(Some(directory)) => match context.open_repository(&directory).and_then(|repository| {
            let threads = repository.refs().threads()?;
            let room = rustix::fs::statvfs(repository.path()).ok().map(|disk| disk.f_bavail * disk.f_frsize);
            Ok((threads.len(), room))
        }) {
            Ok((_, Some(room))) if room < LEAST_ROOM => Check::bad(
                name,
                format!("{} opens, and its disk has {} of room left", show(&directory), human_bytes(room)),
                "make room: selvedge gc removes what nothing needs",
            ),
            Ok((threads, _)) => Check::good(
                name,
                format!("{} opens; threads: {threads}; selvedge fsck reads all of it", show(&directory)),
            ),
            Err(error) => Check::from_error(name, error),
        },
        Err(error) => Check::from_error(name, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_said() {
        let scratch = tempfile::tempdir().unwrap();
        let check = device(&scratch.path().join("fuse"));
        assert!(!check.ok && check.detail.contains("does not exist"), "{check:?}");
        std::fs::write(scratch.path().join("fuse"), "").unwrap();
        let check = device(&scratch.path().join("fuse"));
        assert!(!check.ok && check.detail.contains("not a device"), "{check:?}");
    }

    #[test]
    fn a_missing_helper_is_said_to_those_who_need_it() {
        let scratch = tempfile::tempdir().unwrap();
        let environment = Environment { path: Some(scratch.path().into()), ..Environment::default() };
        assert!(!helper(&environment, false).ok);
        assert!(helper(&environment, true).ok);
    }

    #[test]
    fn a_helper_without_its_set_user_id_bit_is_said() {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("fusermount");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let environment = Environment { path: Some(scratch.path().into()), ..Environment::default() };
        let check = helper(&environment, false);
        assert!(!check.ok && check.detail.contains("not set-user-id"), "{check:?}");
    }

    #[test]
    fn the_switch_in_fuse_conf_is_a_line_of_its_own() {
        assert!(allows_other(b"# x\n user_allow_other \n"));
        assert!(!allows_other(b"#user_allow_other\n"));
    }
}
