//! Both programs start clean whatever they inherit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::sandbox::{Held, SELVEDGE, Sandbox, finish};

/// Starts the command with blocked and ignored signals, surplus descriptors, low limits, an odd umask and an
/// environment that would change how programs load. Perl, unlike a shell, can block signals.
const HOSTILE: &str = r#"
use POSIX qw(:signal_h);
use Fcntl;
$SIG{$_} = 'IGNORE' for qw(CHLD PIPE TERM INT USR1 XFSZ);
my $all = POSIX::SigSet->new; $all->fillset;
sigprocmask(SIG_SETMASK, $all) or die;
$^F = 1000;
our @kept;
for (1..20) { open(my $h, '<', '/etc/passwd') or die; push @kept, $h; }
pipe(our $r, our $w) or die;
umask 0777;
exec { $ARGV[0] } @ARGV or die "exec: $!";
"#;

fn hostile(sandbox: &Sandbox, arguments: &[&str]) -> std::process::Command {
    let mut command = sandbox.program("sh");
    command.args(["-c", "ulimit -S -n 64; ulimit -S -c unlimited; exec perl -e \"$0\" \"$@\"", HOSTILE]);
    command.arg(SELVEDGE).args(arguments);
    for (name, value) in [
        ("LD_LIBRARY_PATH", "/nonexistent"),
        ("LD_DEBUG_OUTPUT", "/nonexistent"),
        ("SQLITE_TMPDIR", "/nonexistent"),
        ("_FUSE_COMMFD", "0"),
        ("RUST_LOG", "trace"),
        ("MALLOC_ARENA_MAX", "1"),
        ("SECRET", "password"),
    ] {
        command.env(name, value);
    }
    command
}

fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn signals(status: &BTreeMap<String, String>, field: &str) -> u64 {
    u64::from_str_radix(&status[field], 16).unwrap()
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn descriptors(pid: u32) -> BTreeMap<u32, PathBuf> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().to_str().unwrap().parse().unwrap(), fs::read_link(entry.path()).unwrap())
        })
        .collect()
}

fn environment(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn limit(pid: u32, name: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let mut values = line[name.len()..].split_ascii_whitespace().map(str::to_owned);
    (values.next().unwrap(), values.next().unwrap())
}

/// What holds for both programs.
fn assert_clean(pid: u32) {
    let status = status(pid);
    assert_eq!(signals(&status, "SigBlk"), 0, "blocked signals of {}", status["Name"]);
    // 32 and 33 are the C library's own, which nobody can ask it about.
    let own = bit(32) | bit(33);
    assert_eq!(
        signals(&status, "SigIgn") & !own,
        bit(libc::SIGPIPE) | bit(libc::SIGXFSZ),
        "ignored signals of {}",
        status["Name"]
    );
    let surplus: Vec<_> = descriptors(pid).into_iter().filter(|(_, to)| to.ends_with("etc/passwd")).collect();
    assert!(surplus.is_empty(), "{surplus:?}");
    let (soft, hard) = limit(pid, "Max open files");
    assert_eq!(soft, hard);
}

#[test]
fn both_programs_start_clean_whatever_they_inherit() {
    let sandbox = Sandbox::new();
    let place = sandbox.path("m");
    let command = hostile(&sandbox, &["--json", "mount", "main", place.to_str().unwrap(), "--foreground"]);
    let held = Held::start(command).unwrap_or_else(|outcome| panic!("{outcome:?}"));
    let (supervisor, worker) = (held.pid(), held.worker());
    assert_clean(supervisor);
    assert_clean(worker);
    assert_eq!(status(supervisor)["Umask"], "0022");
    assert_eq!(status(worker)["Umask"], "0000");
    assert_eq!(limit(worker, "Max core file size"), ("1".to_owned(), "1".to_owned()));
    assert_eq!(fs::read_link(format!("/proc/{worker}/cwd")).unwrap(), PathBuf::from("/"));

    // What the worker was started with; the supervisor's own block in /proc is the one it was given.
    let words = environment(worker);
    for name in ["LD_", "SQLITE_", "_FUSE", "RUST_LOG", "MALLOC_", "SECRET"] {
        assert!(!words.iter().any(|word| word.starts_with(name)), "{name} in {words:?}");
    }
    assert!(words.iter().any(|word| word.starts_with("PATH=")));

    // The umask of the caller does not reach into the mount.
    fs::write(sandbox.path("m/new"), "").unwrap();
    held.stop(Signal::TERM).ok();
}

#[test]
fn the_worker_has_descriptors_it_was_given_or_opened_only() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    let open = descriptors(held.worker());
    assert_eq!(open[&1], PathBuf::from("/dev/null"));
    // The socket it was given as standard input is moved out of reach of whoever reads that.
    assert!(
        open[&0] == Path::new("/dev/null") || open[&0].to_str().unwrap().starts_with("socket:"),
        "{open:?}"
    );
    assert!(open[&2].to_str().unwrap().starts_with("pipe:"), "{open:?}");
    let repository = sandbox.repo().join(".selvedge");
    for (number, target) in open.iter().filter(|(number, _)| **number > 2) {
        let ours = target.starts_with(&repository)
            || target == &PathBuf::from("/dev/fuse")
            || ["anon_inode:", "socket:", "pipe:", "/memfd:"]
                .iter()
                .any(|kind| target.to_str().unwrap().starts_with(kind));
        assert!(ours, "descriptor {number} is {}", target.display());
    }
    held.stop(Signal::TERM).ok();
}

#[test]
fn closed_standard_streams_are_no_others() {
    let sandbox = Sandbox::new();
    let mut shell = sandbox.program("sh");
    shell.args(["-c", "\"$0\" thread create quiet <&- >&- 2>&-; echo code $?"]).arg(SELVEDGE);
    assert_eq!(finish(&mut shell).stdout, "code 0\n");
    let mut shell = sandbox.program("sh");
    shell.args(["-c", "\"$0\" thread list >&- 2>&1"]).arg(SELVEDGE);
    finish(&mut shell);
    // Had a database been opened as descriptor 1, the listing would now be in it.
    assert_eq!(sandbox.json(["thread", "list"]).as_array().unwrap().len(), 2);
}

#[test]
fn an_ignored_sigchld_does_not_confuse_waiting() {
    let sandbox = Sandbox::new();
    let mut shell = sandbox.program("sh");
    shell.args(["-c", "trap '' CHLD; exec \"$0\" --json mount main \"$1\" --foreground"]).arg(SELVEDGE);
    shell.arg(sandbox.path("m"));
    let held = Held::start(shell).unwrap_or_else(|outcome| panic!("{outcome:?}"));
    sandbox.run(["unmount", "main"]).ok();
    held.end().ok();
}
