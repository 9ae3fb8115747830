//! How many system calls the worker's dispatch threads make of what programs do, besides reading requests and answering
//! them: counted with strace(1), thread by thread, so that no machine is too slow or too busy for it and what other threads
//! do in the background is not among them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use selvedge_test_support::{Mounted, Repo, wait_until};

use crate::WORKER;
use crate::requests::{FILES, name, requests, small_files_mounted};

/// Calls by name, but for those that carry requests and replies, wait, or get memory.
type Calls = BTreeMap<String, u64>;

const OTHERS: [&str; 10] = [
    "read",
    "writev",
    "futex",
    "restart_syscall",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "brk",
    "sched_yield",
];

/// Calls that come now and then: room for the journal, and a second question about a file that the thread which makes files
/// durable had open at the first. One more for each file is more than that.
const SLACK: u64 = FILES / 4 * 3;

/// A tracer of some threads, which lets go of them when it ends.
struct Tracer {
    strace: Child,
    /// Keeps the tracer's messages from filling the pipe, and it from dying of a closed one.
    _messages: BufReader<std::process::ChildStderr>,
}

impl Tracer {
    /// Counts the calls of these threads from here on, into the file `counts`.
    fn of(threads: &[u32], counts: &Path) -> Self {
        let mut strace = Command::new("strace");
        strace.arg("-c").arg("-o").arg(counts);
        for thread in threads {
            strace.arg("-p").arg(thread.to_string());
        }
        let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace is there");
        let mut messages = BufReader::new(strace.stderr.take().unwrap());
        // A line for each thread says that it is attached.
        for _ in threads {
            let mut line = String::new();
            messages.read_line(&mut line).unwrap();
            assert!(line.contains("attached"), "{line}");
        }
        Self { strace, _messages: messages }
    }

    /// Ends it, and with that has it write what it has counted.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.strace), Signal::INT).unwrap();
        wait_until("the end of strace", Duration::from_secs(10), || {
            self.strace.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The threads of the worker that answer requests.
fn dispatch_threads(mount: &Mounted) -> Vec<u32> {
    let pid = mount.status(Duration::from_secs(5)).unwrap().pid;
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap());
    let dispatches = tasks.filter(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("fuser-"))
    });
    let threads: Vec<u32> =
        dispatches.map(|task| task.file_name().to_str().unwrap().parse().unwrap()).collect();
    assert!(!threads.is_empty());
    threads
}

/// The calls that `work` causes, of which `closed` are the ends of files.
fn calls(repo: &Repo, mount: &Mounted, closed: u64, work: impl FnOnce()) -> Calls {
    let counts = repo.dir().join("calls");
    let tracer = Tracer::of(&dispatch_threads(mount), &counts);
    requests(mount, closed, work);
    tracer.end();
    let text = fs::read_to_string(counts).unwrap();
    // Columns: share, seconds, microseconds a call, calls, errors if there were any, name.
    let rows = text.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let calls = columns.get(3)?.parse().ok()?;
        let name = columns.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), calls))
    });
    let calls: Calls = rows.collect();
    assert!(calls.contains_key("writev"), "no reply was seen: {text}");
    calls.into_iter().filter(|(name, _)| !OTHERS.contains(&&**name)).collect()
}

#[test]
fn each_operation_makes_no_more_system_calls_than_it_must() {
    let (repo, mount) = small_files_mounted(|repo| repo.mounting(WORKER).start());
    let dir = mount.path().join("d");
    let each = |work: &dyn Fn(&Path)| (0..FILES).for_each(|number| work(&dir.join(name(number))));
    let mut wrong = Vec::new();
    let mut expect = |what: &str, closed: u64, most: &[(&str, u64)], work: &dyn Fn()| {
        let made = calls(&repo, &mount, closed, work);
        let most: BTreeMap<&str, u64> = most.iter().copied().collect();
        let of = |name: &str| most.get(name).map_or(0, |each| each * FILES);
        if made.iter().any(|(name, count)| *count > of(name) + SLACK) {
            wrong.push(format!("{what}: {made:?} instead of {most:?} for each of {FILES}"));
        }
    };
    let read = || each(&|path| assert!(fs::read(path).unwrap().starts_with(b"file")));
    read();
    expect("open, read, close of unchanged files, again", FILES, &[], &read);
    // Passed through: the kernel is given the file and a number for it, and who else has it is asked by a lease. The fourth
    // fcntl is the standard library's, which looks at what it closes where debug assertions are on.
    let passed = [("ioctl", 2), ("fcntl", 4), ("close", 1)];
    let with = |more: &[(&'static str, u64)]| [&passed[..], more].concat();
    expect(
        "create, write, close",
        FILES,
        &with(&[("openat", 1), ("newfstatat", 1), ("pwrite64", 1)]),
        &|| each(&|path| File::create_new(path.with_extension("new")).unwrap().write_all(b"file").unwrap()),
    );
    // The size is asked for once more, because the file was written.
    expect("open, read, close of changed files", FILES, &with(&[("openat", 1), ("newfstatat", 1)]), &|| {
        each(&|path| assert_eq!(fs::read(path.with_extension("new")).unwrap(), b"file"));
    });
    expect("rename", 0, &[("newfstatat", 1), ("pwrite64", 1)], &|| {
        each(&|path| fs::rename(path.with_extension("new"), path.with_extension("moved")).unwrap());
    });
    expect("chmod", 0, &[("newfstatat", 2), ("pwrite64", 1)], &|| {
        let mode = || fs::Permissions::from_mode(0o600);
        each(&|path| fs::set_permissions(path.with_extension("moved"), mode()).unwrap());
    });
    expect("unlink", 0, &[("pwrite64", 1)], &|| {
        each(&|path| fs::remove_file(path.with_extension("moved")).unwrap());
    });
    mount.stop();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
