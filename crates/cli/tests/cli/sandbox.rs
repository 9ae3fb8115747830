//! A directory of its own for each test, with a home, a runtime directory and a repository's place; whatever a
//! test leaves mounted or running there is ended when it goes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use selvedge_mountpoint::{mountinfo, take_down};
use serde_json::Value;

/// The command under test.
pub(crate) const SELVEDGE: &str = env!("CARGO_BIN_EXE_selvedge");
/// The worker under test.
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_selvedge-fuse-worker");
/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// A test's own directory.
pub(crate) struct Sandbox {
    root: tempfile::TempDir,
    user: Option<u32>,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Sandbox {
    /// A sandbox without a repository.
    pub(crate) fn empty() -> Self {
        let root = tempfile::Builder::new().prefix("selvedge-cli-").tempdir().unwrap();
        let sandbox = Self { root, user: None };
        for name in ["home", "repo"] {
            std::fs::create_dir(sandbox.path(name)).unwrap();
        }
        sandbox
    }

    /// A sandbox with a repository whose thread `main` holds a small tree.
    pub(crate) fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.fill();
        sandbox
    }

    /// As [`Self::new`], everything owned and run by an ordinary user.
    pub(crate) fn unprivileged() -> Self {
        Self::of_user(65_534)
    }

    /// As [`Self::unprivileged`], for the user of that number.
    pub(crate) fn of_user(user: u32) -> Self {
        open_device_to_everybody();
        let mut sandbox = Self::empty();
        std::fs::set_permissions(sandbox.root(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for path in [sandbox.root().to_owned(), sandbox.path("home"), sandbox.path("repo")] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
        sandbox.user = Some(user);
        sandbox.fill();
        sandbox
    }

    fn fill(&self) {
        let repo = self.repo();
        std::fs::create_dir(repo.join("dir")).unwrap();
        std::fs::write(repo.join("file"), "content\n").unwrap();
        std::fs::write(repo.join("dir/inner"), "inner\n").unwrap();
        std::os::unix::fs::symlink("file", repo.join("link")).unwrap();
        if let Some(user) = self.user {
            for name in ["dir", "file", "dir/inner"] {
                std::os::unix::fs::chown(repo.join(name), Some(user), Some(user)).unwrap();
            }
        }
        self.run(["init"]).ok();
        self.run(["import", "-m", "first"]).ok();
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// The command, in the repository's directory, ready for arguments.
    pub(crate) fn command(&self) -> Command {
        self.program(SELVEDGE)
    }

    /// Another program, run as the command is.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.repo()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SELVEDGE_") || name.to_string_lossy().starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.path("home")).env("SELVEDGE_RUNTIME_DIR", self.runtime());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Makes an executable script. Another process writes it: a descriptor of this one, which a test beside it
    /// inherits while it starts a program, would make the script's start fail with ETXTBSY.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        let written = Command::new("sh").args(["-ec", write, "sh"]).arg(&path).arg(text).status().unwrap();
        assert!(written.success());
        path
    }

    /// Runs the command to its end.
    pub(crate) fn run<I>(&self, arguments: I) -> Outcome
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        finish(self.command().args(arguments))
    }

    /// Runs the command with `--json`, which must succeed, and reads its document.
    pub(crate) fn json<I>(&self, arguments: I) -> Value
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let outcome = finish(self.command().arg("--json").args(arguments));
        outcome.ok().document()
    }

    /// Mounts `thread` on `directory` (relative to the sandbox) and waits until it is ready.
    pub(crate) fn mount(&self, thread: &str, directory: &str) -> Held {
        self.mount_with(thread, directory, &[])
    }

    /// As [`Self::mount`], with further options.
    pub(crate) fn mount_with(&self, thread: &str, directory: &str, options: &[&str]) -> Held {
        let mut command = self.command();
        command.args(["--json", "mount", thread]).arg(self.path(directory)).arg("--foreground").args(options);
        Held::start(command).unwrap_or_else(|outcome| panic!("no mount: {outcome:?}"))
    }

    /// Mounts `thread` on `directory` in the background.
    pub(crate) fn background(&self, thread: &str, directory: &str) -> Value {
        let directory = self.path(directory);
        self.json([OsStr::new("mount"), OsStr::new(thread), directory.as_os_str()])
    }

    /// What `service status` says.
    pub(crate) fn service(&self) -> Value {
        self.json(["service", "status"])
    }

    /// The service's process.
    #[track_caller]
    pub(crate) fn service_pid(&self) -> u32 {
        u32::try_from(self.service()["pid"].as_u64().expect("a service")).unwrap()
    }

    /// The processes that were started with this sandbox's runtime directory, zombies not counted.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let wanted = format!("SELVEDGE_RUNTIME_DIR={}", self.runtime().display()).into_bytes();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                std::fs::read(format!("/proc/{pid}/environ"))
                    .is_ok_and(|words| words.split(|byte| *byte == 0).any(|word| word == wanted))
            })
            .filter(|pid| runs(*pid))
            .collect()
    }

    /// Kills the service and all workers, so that none of them does anything about the others' end.
    pub(crate) fn kill_all(&self) {
        let service = self.service_pid();
        signal(service, Signal::STOP);
        for pid in self.processes().into_iter().filter(|pid| *pid != service) {
            signal(pid, Signal::KILL);
        }
        signal(service, Signal::KILL);
        eventually("everything has ended", || self.processes().is_empty());
    }

    /// The directory of this boot and mount namespace in the runtime directory.
    pub(crate) fn instance(&self) -> PathBuf {
        let mut instances = std::fs::read_dir(self.runtime()).unwrap();
        instances.next().expect("a directory of this boot").unwrap().path()
    }

    /// Mounts of the sandbox.
    pub(crate) fn mounts(&self) -> Vec<mountinfo::MountEntry> {
        let mounts = mountinfo::read().unwrap();
        mounts.into_iter().filter(|entry| entry.mount_point.starts_with(self.root())).collect()
    }

    /// Names in the runtime directory's `mounts`, in any boot's and namespace's directory.
    pub(crate) fn records(&self) -> Vec<PathBuf> {
        let Ok(instances) = std::fs::read_dir(self.runtime()) else { return Vec::new() };
        let mounts = instances.flatten().map(|instance| instance.path().join("mounts"));
        mounts
            .flat_map(|mounts| std::fs::read_dir(mounts).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.runtime().exists() {
            let stop =
                self.command().args(["service", "stop"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let _ = stop.map(|mut stop| {
                wait(&mut stop, Duration::from_secs(20)).or_else(|| {
                    let _ = stop.kill();
                    stop.wait().ok()
                })
            });
        }
        for pid in self.processes() {
            let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
        }
        for entry in self.mounts() {
            let _ = take_down(&entry.identity(), Instant::now() + Duration::from_secs(10));
        }
    }
}

/// udev gives `/dev/fuse` to everybody; a bare kernel gives it to root alone. Ordinary users need the former.
pub(crate) fn open_device_to_everybody() {
    let device = Path::new("/dev/fuse");
    let mode = device.metadata().expect("/dev/fuse").permissions().mode() & 0o777;
    if mode != 0o666 {
        std::fs::set_permissions(device, std::fs::Permissions::from_mode(0o666)).unwrap();
    }
}

/// Kills the process that holds `held`'s mount in such a way that its worker does not even notice: a worker that
/// is stopped gets no SIGCONT from the kernel, because this process takes the orphan in.
pub(crate) fn orphan_stopped(held: Held) -> u32 {
    rustix::process::set_child_subreaper(Pid::from_raw(1)).unwrap();
    let worker = held.worker();
    signal(worker, Signal::STOP);
    held.stop(Signal::KILL);
    worker
}

/// Kills the process that holds `held`'s mount and its worker, so that neither learns of the other's end.
pub(crate) fn kill_both(held: Held) {
    let worker = held.worker();
    signal(held.pid(), Signal::STOP);
    signal(worker, Signal::KILL);
    held.stop(Signal::KILL);
    eventually("the worker is gone", || !runs(worker));
}

/// Runs `command` to its end.
pub(crate) fn finish(command: &mut Command) -> Outcome {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let status = wait(&mut child, DEADLINE).unwrap_or_else(|| {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} takes too long; it said {:?}", stderr.recv_timeout(Duration::from_secs(5)));
    });
    let took = started.elapsed();
    let text = |from: mpsc::Receiver<String>| from.recv_timeout(DEADLINE).expect("an output that ends");
    Outcome { status, stdout: text(stdout), stderr: text(stderr), took }
}

fn collect(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    collect_into(from, Arc::default())
}

/// As [`collect`]; what has come so far stands in `so_far`.
fn collect_into(mut from: impl Read + Send + 'static, so_far: Arc<Mutex<Vec<u8>>>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut block = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut block) {
            so_far.lock().unwrap().extend(&block[..read]);
        }
        let _ = sender.send(String::from_utf8_lossy(&so_far.lock().unwrap()).into_owned());
    });
    receiver
}

/// Waits for a child's end.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process beside the test, ended with it.
pub(crate) struct Stray(pub(crate) Child);

impl Stray {
    /// Starts `command`, whose output nobody reads.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `holds` does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Whether there is a process with that number that is no zombie.
pub(crate) fn runs(pid: u32) -> bool {
    selvedge_cli::process::ProcessId::of(pid).is_some_and(selvedge_cli::process::ProcessId::runs)
}

impl Outcome {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// It succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{self:?}");
        self
    }

    /// It did what was asked, and answers by its exit code.
    #[track_caller]
    pub(crate) fn answers(self, code: i32) {
        assert_eq!(self.code(), code, "{self:?}");
        assert!(!self.stderr.contains("error"), "{self:?}");
    }

    /// It failed with this exit code, and its error is one that people can use: one line and what to do
    /// next, and nothing of our insides.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        for word in ["panicked", "os error", "unwrap", "RUST_BACKTRACE"] {
            assert!(!self.stderr.contains(word), "{self:?}");
        }
        assert!(["hint: ", "\"hint\":\""].iter().any(|hint| self.stderr.contains(hint)), "{self:?}");
        self
    }

    /// Its error says this.
    #[track_caller]
    pub(crate) fn saying(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in {self:?}");
        self
    }

    /// The document on standard output.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The `error` object on standard error.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        let document: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        document["error"].clone()
    }
}

/// The fields of an object, in order of their names.
pub(crate) fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// A mount held by a foreground process.
pub(crate) struct Held {
    pub(crate) child: Child,
    /// What it printed when it was ready.
    pub(crate) ready: Value,
    stderr: mpsc::Receiver<String>,
    /// What it has said on standard error by now.
    said: Arc<Mutex<Vec<u8>>>,
    stdout: mpsc::Receiver<String>,
}

impl Held {
    /// Starts a `mount --foreground --json`; what it came to if it does not get ready.
    pub(crate) fn start(mut command: Command) -> Result<Self, Outcome> {
        let started = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::default();
        let stderr = collect_into(child.stderr.take().unwrap(), Arc::clone(&said));
        let stdout = child.stdout.take().unwrap();
        let (first, line) = mpsc::channel();
        let (rest, remaining) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut text = String::new();
            let _ = reader.read_line(&mut text);
            let _ = first.send(text);
            let mut text = String::new();
            let _ = reader.read_to_string(&mut text);
            let _ = rest.send(text);
        });
        let text = line.recv_timeout(DEADLINE).expect("an answer from mount");
        match serde_json::from_str(&text) {
            Ok(ready) => Ok(Self { child, ready, stderr, said, stdout: remaining }),
            Err(_) => Err(Outcome {
                status: wait(&mut child, DEADLINE).expect("an end"),
                stdout: text,
                stderr: stderr.recv_timeout(DEADLINE).unwrap(),
                took: started.elapsed(),
            }),
        }
    }

    /// The process that holds the mount.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The worker's process id.
    pub(crate) fn worker(&self) -> u32 {
        u32::try_from(self.ready["worker_pid"].as_u64().unwrap()).unwrap()
    }

    /// Waits until it has said `text` on standard error.
    pub(crate) fn says(&self, text: &str) {
        eventually(text, || String::from_utf8_lossy(&self.said.lock().unwrap()).contains(text));
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Outcome {
        let started = Instant::now();
        let status = wait(&mut self.child, DEADLINE).expect("an end of the mount");
        Outcome {
            status,
            stdout: self.stdout.recv_timeout(DEADLINE).unwrap(),
            stderr: self.stderr.recv_timeout(DEADLINE).unwrap(),
            took: started.elapsed(),
        }
    }

    /// Asks it to end with `signal`, and waits.
    pub(crate) fn stop(self, with: Signal) -> Outcome {
        signal(self.pid(), with);
        self.end()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        signal(self.pid(), Signal::TERM);
        if wait(&mut self.child, Duration::from_secs(20)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
