//! A worker that serves a real mount of a small tree.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use selvedge_mountpoint::{UnmountMode, mountinfo, unmount};
use selvedge_supervisor::{OnCrash, SpawnSpec, Supervisor, WorkerProgram};
use selvedge_worker_proto::{Command, Envelope, Event, PROTOCOL_VERSION, Receiver, Sender, channel};

use crate::{built, run};

/// A file of every tree.
const HELLO: &str = "hello";

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A repository with a thread, and a directory to mount it on. Both go when it is dropped.
#[derive(Debug)]
pub struct Live {
    dir: tempfile::TempDir,
    worker: PathBuf,
}

impl Live {
    /// Makes them with the built `selvedge`. The worker is `$SELVEDGE_FUSE_WORKER_BIN`, else the one built beside
    /// this program.
    pub fn new() -> Result<Self> {
        Self::with_files(0)
    }

    /// As [`new`](Self::new), with so many more files in the tree. They are empty, so that a million are imported in
    /// reasonable time.
    pub fn with_files(files: usize) -> Result<Self> {
        let worker = match env::var_os("SELVEDGE_FUSE_WORKER_BIN") {
            Some(path) => PathBuf::from(path),
            None => built("selvedge-fuse-worker")?,
        };
        let live = Self { dir: tempfile::tempdir()?, worker };
        let source = live.repo();
        fs::create_dir(&source)?;
        fs::create_dir(live.mountpoint()?)?;
        fs::write(source.join(HELLO), "hello\n")?;
        fs::write(live.trace(), "")?;
        for number in 0..files {
            let directory = source.join(format!("{}", number / 100));
            if number % 100 == 0 {
                fs::create_dir(&directory)?;
            }
            fs::File::create(directory.join(format!("{number}")))?;
        }
        for command in [["init"], ["import"]] {
            run(Program::new(built("selvedge")?).args(command).current_dir(&source))?;
        }
        Ok(live)
    }

    /// The name of the last file of a tree of so many more.
    pub fn last_of(files: usize) -> PathBuf {
        match files.checked_sub(1) {
            None => HELLO.into(),
            Some(last) => format!("{}/{last}", last / 100).into(),
        }
    }

    /// When the worker with this number reached which step of taking the mount over, in nanoseconds of the monotonic
    /// clock.
    pub fn steps(&self, pid: u32) -> Result<Vec<(String, u64)>> {
        let said = fs::read_to_string(self.trace())?;
        let pid = pid.to_string();
        let step = |line: &str| {
            let mut words = line.split(' ');
            (words.next()? == pid).then_some(())?;
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        Ok(said.lines().filter_map(step).collect())
    }

    fn trace(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn mountpoint(&self) -> Result<PathBuf> {
        Ok(self.dir.path().canonicalize()?.join("mount"))
    }

    fn arguments(&self) -> Result<Vec<OsString>> {
        let repo = self.repo().canonicalize()?;
        let arguments: [OsString; 6] = [
            "--repo".into(),
            repo.into(),
            "--thread".into(),
            "main".into(),
            "--mountpoint".into(),
            self.mountpoint()?.into(),
        ];
        Ok(arguments.into())
    }

    /// A worker with its supervisor, as `mount --foreground --on-crash unmount` has it.
    pub fn supervised(&self) -> Result<Supervisor> {
        self.supervised_with(OnCrash::Unmount, 0)
    }

    /// A worker with its supervisor, who replaces it when it dies; each makes so many MiB of memory resident once it
    /// serves.
    pub fn recovering_with(&self, ballast: usize) -> Result<Supervisor> {
        self.supervised_with(OnCrash::Recover, ballast)
    }

    fn supervised_with(&self, on_crash: OnCrash, ballast: usize) -> Result<Supervisor> {
        let mut spec = SpawnSpec::new(WorkerProgram::Path(self.worker.clone()), self.mountpoint()?);
        spec.args = self.arguments()?;
        spec.on_crash = on_crash;
        spec.env.push(("SELVEDGE_TEST_TAKEOVER_TRACE".into(), self.trace().into()));
        if ballast > 0 {
            spec.env.push(("SELVEDGE_TEST_BALLAST_MIB".into(), ballast.to_string().into()));
        }
        Ok(Supervisor::spawn(&spec)?)
    }

    /// A worker without a supervisor: the bare conversation.
    pub fn wire(&self) -> Result<Wire> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Program::new(&self.worker)
            .args(self.arguments()?)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.worker.display()))?;
        let (commands, events) = channel(ours.into());
        let mut wire = Wire { child, commands, events, last_id: 0 };
        match wire.ask(Command::Hello { protocol: PROTOCOL_VERSION })? {
            Event::MountReady(_) => Ok(wire),
            other => bail!("the worker does not mount: {other:?}"),
        }
    }
}

impl Drop for Live {
    /// A measurement that failed may have left its mount, which must not stay below a directory that is removed.
    fn drop(&mut self) {
        let mounts = self.mountpoint().ok().and_then(|dir| mountinfo::at(&dir).ok()).unwrap_or_default();
        for entry in mounts.into_iter().rev() {
            let _ = unmount(&entry.identity(), UnmountMode::Force, Instant::now() + PATIENCE);
        }
    }
}

/// A worker and the socket to it.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    commands: Sender<Command>,
    events: Receiver<Event>,
    last_id: u64,
}

impl Wire {
    /// One command and its first answer.
    pub fn ask(&mut self, command: Command) -> Result<Event> {
        self.last_id += 1;
        let deadline = Some(Instant::now() + PATIENCE);
        self.commands.send(Envelope::new(self.last_id, command), &[], deadline)?;
        let envelope = self.events.recv(deadline)?.envelope;
        ensure!(envelope.id == self.last_id, "answer {} to command {}", envelope.id, self.last_id);
        Ok(envelope.msg)
    }

    /// One `Status` and its answer.
    pub fn status(&mut self) -> Result<()> {
        match self.ask(Command::Status {})? {
            Event::StatusOk(_) => Ok(()),
            other => bail!("not a status: {other:?}"),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let stopped = self.ask(Command::Stop { force: true });
        if !matches!(stopped, Ok(Event::Stopping {})) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
