//! What of the system decides how well mounts do: limits, watches, time-outs, user namespaces, what log-out ends.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::environment::Environment;

/// Descriptors that a service with fifty busy mounts and their workers' open files are well off with.
const FILES: u64 = 4096;

/// What an editor or a build that watches one larger tree takes.
const WATCHES: u64 = 8192;

/// As many programs watch something on a desktop before anybody starts to work.
const INSTANCES: u64 = 64;

/// Pauses that a request has to outlast: a worker that hangs is replaced after 30 s, unless it is set otherwise.
const PAUSE: u64 = 60;

/// How long trying a user namespace may take.
const TRY: Duration = Duration::from_millis(300);

/// How many files and mounts the caller may have.
pub(super) fn limits(privileged: bool) -> Check {
    let name = "limits";
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if files < FILES {
        return Check::bad(
            name,
            format!(
                "a process may have {files} files open, and a worker has one open for each that a program has"
            ),
            format!(
                "raise the hard limit of open files to {FILES} or more (ulimit -Hn, limits.conf, LimitNOFILE= of a unit)"
            ),
        );
    }
    let mounts = if privileged {
        number(Path::new("/proc/sys/fs/mount-max"))
            .map(|most| format!("a mount namespace holds {most} mounts"))
    } else {
        let most = mount_max(&fs::read_to_string("/etc/fuse.conf").unwrap_or_default());
        Some(format!(
            "the helper makes {most} mounts for all ordinary users together (mount_max in /etc/fuse.conf)"
        ))
    };
    let files = if files == u64::MAX { "any number of".to_owned() } else { files.to_string() };
    Check::good(name, format!("a process may have {files} files open; {}", mounts.unwrap_or_default()))
}

/// How many mounts `fusermount3` makes, as its configuration says.
fn mount_max(configuration: &str) -> u64 {
    let mut values = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("mount_max")?.trim().strip_prefix('='));
    values.next_back().and_then(|value| value.trim().parse().ok()).unwrap_or(1000)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// How much programs may watch: each thread that is mounted is a tree of its own to them.
pub(super) fn inotify(settings: &Path) -> Check {
    let name = "inotify";
    let value = |key: &str| number(&settings.join(key));
    let (Some(watches), Some(instances)) = (value("max_user_watches"), value("max_user_instances")) else {
        return Check::good(name, "the kernel does not say how much may be watched");
    };
    let detail = format!(
        "{watches} watches and {instances} instances for each user; each mounted thread is one more tree to programs that watch"
    );
    if watches < WATCHES || instances < INSTANCES {
        let fix = "as root: sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512, and in /etc/sysctl.d for good";
        return Check::bad(name, detail, fix);
    }
    Check::good(name, detail)
}

/// Whether the kernel ends a connection whose requests wait for long.
pub(super) fn request_timeouts(settings: &Path) -> Check {
    let name = "request_timeouts";
    let value = |key: &str| number(&settings.join(key)).filter(|seconds| *seconds > 0);
    let keys = ["default_request_timeout", "max_request_timeout"];
    match keys.into_iter().filter_map(value).min() {
        None => Check::good(name, "requests may wait for as long as a worker is replaced"),
        Some(seconds) if seconds >= PAUSE => Check::good(
            name,
            format!(
                "the kernel ends a mount whose request waits for {seconds} s; replacing a worker that hangs takes less"
            ),
        ),
        Some(seconds) => Check::bad(
            name,
            format!(
                "the kernel ends a mount whose request waits for {seconds} s, which replacing a worker that hangs may take"
            ),
            "as root: sysctl fs.fuse.default_request_timeout=0 fs.fuse.max_request_timeout=0, or set service.hang_limit lower",
        ),
    }
}

/// Whether `run` works: tried, because what forbids it is in a dozen places.
pub(super) fn user_namespaces(privileged: bool) -> Check {
    let name = "user_namespaces";
    let fix = "allow them (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces; kernel.apparmor_restrict_unprivileged_userns=0; a container's profile), or use selvedge run as root";
    let what = if privileged { "a mount namespace" } else { "user and mount namespaces" };
    match try_namespace() {
        Ok(()) => Check::good(name, format!("{what} can be made, so selvedge run works")),
        Err(why) => {
            Check::bad(name, format!("{what} cannot be made, so selvedge run does not work: {why}"), fix)
        }
    }
}

fn try_namespace() -> Result<(), String> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--json", "doctor", "--try-namespace"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + TRY;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) if status.code() == Some(5) => {
                return Err("the system does not permit it".to_owned());
            }
            Ok(Some(status)) => return Err(format!("the attempt ended with {status}")),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                // Not reaped yet, so the number is still its own.
                let _ = child.kill();
                let _ = child.wait();
                return Err("the attempt takes too long".to_owned());
            }
        }
    }
}

/// What log-out would end: the service's processes, or those that a service would be started from now.
pub(super) fn log_out(environment: &Environment, service: Option<u32>) -> Check {
    let of = service.map_or("self".to_owned(), |pid| pid.to_string());
    let group = fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap_or_default();
    let logind = fs::read_to_string("/etc/systemd/logind.conf").unwrap_or_default();
    let dropped = fs::read_dir("/etc/systemd/logind.conf.d").into_iter().flatten().flatten();
    let logind =
        dropped.fold(logind, |all, file| all + "\n" + &fs::read_to_string(file.path()).unwrap_or_default());
    let uid = rustix::process::geteuid().as_raw();
    let lingers = fs::read_to_string("/etc/passwd").unwrap_or_default().lines().any(|line| {
        let mut fields = line.split(':');
        let user = fields.next().unwrap_or_default();
        fields.nth(1) == Some(&uid.to_string()) && Path::new("/var/lib/systemd/linger").join(user).exists()
    });
    let manager = environment.user_runtime.as_ref().is_some_and(|path| path.join("systemd/private").exists());
    let session = Session { kills: kills(&logind), lingers, manager, runs: service.is_some() };
    judge_log_out(&group, &session)
}

/// Whether log-out ends what a session has started (`logind.conf(5)`).
fn kills(logind: &str) -> bool {
    let mut values = logind
        .lines()
        .filter_map(|line| line.trim().strip_prefix("KillUserProcesses")?.trim().strip_prefix('='));
    values.next_back().is_some_and(|value| ["yes", "true", "1", "on"].contains(&value.trim()))
}

/// What decides what log-out ends.
#[expect(clippy::struct_excessive_bools, reason = "four answers to four questions")]
struct Session {
    /// Whether log-out ends what a session started.
    kills: bool,
    /// Whether the user's service manager stays.
    lingers: bool,
    /// Whether there is one.
    manager: bool,
    /// Whether the service runs.
    runs: bool,
}

fn judge_log_out(group: &str, session: &Session) -> Check {
    let Session { kills, lingers, manager, runs } = *session;
    let name = "log_out";
    let linger = "loginctl enable-linger, which keeps the user's service manager and what it holds";
    if group.contains("/user@") {
        return if lingers {
            Check::good(name, "the mounts belong to the user's service manager, which stays after log-out")
        } else {
            Check::bad(
                name,
                "the mounts belong to the user's service manager, which ends with the last log-out, and they with it; the next service makes them again",
                linger,
            )
        };
    }
    if !group.contains("/session-") {
        return Check::good(name, "the mounts belong to no login session: log-out does not end them");
    }
    match (kills, manager) {
        (false, _) => Check::good(
            name,
            "the mounts belong to a login session, and log-out leaves what that started (KillUserProcesses is off)",
        ),
        (true, true) if !runs => {
            Check::good(name, "the service will be started in the user's service manager")
        }
        (true, _) => Check::bad(
            name,
            "log-out ends what a session started (KillUserProcesses in logind.conf), the mounts too; the next service makes them again",
            format!("{linger}; then selvedge service stop, and mount again"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(values: &[(&str, &str)]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        for (name, value) in values {
            fs::write(scratch.path().join(name), format!("{value}\n")).unwrap();
        }
        scratch
    }

    #[test]
    fn few_watches_are_said() {
        let few = settings(&[("max_user_watches", "100"), ("max_user_instances", "128")]);
        let check = inotify(few.path());
        assert!(!check.ok && check.detail.contains("100 watches"), "{check:?}");
        let many = settings(&[("max_user_watches", "524288"), ("max_user_instances", "128")]);
        assert!(inotify(many.path()).ok);
    }

    #[test]
    fn a_time_out_that_is_shorter_than_a_pause_is_said() {
        let pairs = [
            ("0", "0", true),
            ("20", "0", false),
            ("0", "20", false),
            ("600", "20", false),
            ("90", "120", true),
        ];
        for (usual, most, ok) in pairs {
            let set = settings(&[("default_request_timeout", usual), ("max_request_timeout", most)]);
            assert_eq!(request_timeouts(set.path()).ok, ok, "{usual} {most}");
        }
        assert!(request_timeouts(settings(&[]).path()).ok);
    }

    #[test]
    fn what_log_out_ends_is_said() {
        let session = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let managed = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n";
        let system = "0::/system.slice/cron.service\n";
        for (group, kills, lingers, manager, runs, ok) in [
            (system, true, false, false, true, true),
            (session, false, false, false, true, true),
            (session, true, false, false, true, false),
            (session, true, false, true, true, false),
            (session, true, false, true, false, true),
            (managed, true, false, true, true, false),
            (managed, false, true, true, true, true),
        ] {
            let check = judge_log_out(group, &Session { kills, lingers, manager, runs });
            assert_eq!((check.ok, check.fix.is_none()), (ok, ok), "{check:?}");
        }
        assert!(kills("[Login]\n#KillUserProcesses=no\nKillUserProcesses=yes\n"));
        assert!(
            !kills("#KillUserProcesses=yes\n") && !kills("KillUserProcesses=yes\nKillUserProcesses = no\n")
        );
        assert_eq!((mount_max("# mount_max = 3\nmount_max = 7\n"), mount_max("")), (7, 1000));
    }
}
