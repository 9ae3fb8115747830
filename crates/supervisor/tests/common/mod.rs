//! A worker that does what each test needs: the test program itself, started again.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::thread;
use std::time::{Duration, Instant};

use selvedge_mountpoint::{
    MountEntry, MountOptions, MountedFuse, Mountpoint, UnmountError, UnmountMode, mount_fuse, mountinfo,
    unmount,
};
use selvedge_supervisor::{SpawnSpec, WorkerProgram};
use selvedge_worker_proto::{
    Command, Device, Envelope, ErrorKind, Event, ExportDone, ExportNote, ExportNoted, ExportProgress, Holder,
    MountReady, PROTOCOL_VERSION, Passthrough, Received, Receiver, Sender, StatusOk, StopRefused, WirePath,
    channel,
};

const ROLE: &str = "SELVEDGE_TEST_WORKER";
const DIR: &str = "SELVEDGE_TEST_DIR";

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A directory to mount on; what is still mounted there goes when the test ends, however it ends.
pub(crate) struct Sandbox(tempfile::TempDir);

impl Sandbox {
    pub(crate) fn new() -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let sandbox = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(sandbox.dir()).unwrap();
        sandbox
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root().join("m")
    }

    pub(crate) fn mounts(&self) -> Vec<MountEntry> {
        mountinfo::at(&self.dir()).unwrap()
    }

    /// A worker that plays `role`: this program, running the test named `fake_worker`.
    pub(crate) fn spec(&self, role: &str) -> SpawnSpec {
        let program = std::env::current_exe().unwrap();
        let mut spec = SpawnSpec::new(WorkerProgram::Path(program), self.dir());
        spec.args = ["--exact", "fake_worker", "--nocapture"].map(Into::into).to_vec();
        spec.env = vec![(ROLE.into(), role.into()), (DIR.into(), self.dir().into())];
        spec.stop_grace = Duration::from_millis(300);
        spec
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for entry in self.mounts().into_iter().rev() {
            let _ = unmount(&entry.identity(), UnmountMode::Force, soon());
        }
    }
}

/// The body of the test `fake_worker`: nothing, unless a supervisor has started this program as its worker.
pub(crate) fn fake_worker() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let role = role.into_string().unwrap();
    play(&role, &dir, socket);
    exit(0);
}

fn play(role: &str, dir: &Path, socket: OwnedFd) {
    match role {
        "dies" => {
            eprint!("the disk is on fire\nno, really \u{1b}[31m");
            exit(7);
        }
        "hangs" => thread::sleep(Duration::from_mins(1)),
        "closes and hangs" => {
            rustix::net::shutdown(&socket, rustix::net::Shutdown::Both).unwrap();
            thread::sleep(Duration::from_mins(1));
        }
        "talks nonsense" => raw(&socket, b"\x05\0\0\0hello"),
        "talks too much" => raw(&socket, &u32::MAX.to_le_bytes()),
        "tears a frame" => raw_and_exit(&socket, b"\x05\0\0\0he"),
        "says an unknown word" => raw(&socket, b"\x1a\0\0\0{\"id\":1,\"msg\":{\"Sing\":{}}}"),
        "mounts and dies" => {
            mount(dir);
            exit(9);
        }
        "mounts and hangs" => {
            let _mounted = mount(dir);
            thread::sleep(Duration::from_mins(1));
        }
        _ => converse(role, dir, socket),
    }
}

fn raw(socket: &OwnedFd, bytes: &[u8]) {
    rustix::io::write(socket, bytes).unwrap();
    thread::sleep(Duration::from_mins(1));
}

fn raw_and_exit(socket: &OwnedFd, bytes: &[u8]) {
    rustix::io::write(socket, bytes).unwrap();
    exit(3);
}

fn mount(dir: &Path) -> MountedFuse {
    let options = MountOptions { thread: "test".to_owned(), ..MountOptions::default() };
    mount_fuse(&Mountpoint::open(dir).unwrap(), &options, soon()).unwrap()
}

fn converse(role: &str, dir: &Path, socket: OwnedFd) {
    let (events, mut commands) = channel::<Event, Command>(socket);
    let hello = commands.recv(Some(soon())).unwrap();
    let reply = |id, event| events.send(Envelope::new(id, event), &[], Some(soon())).unwrap();
    if role == "cannot mount" {
        return reply(hello.envelope.id, Event::mount_error(ErrorKind::Conflict, "it is full"));
    }
    let mounted = mount(dir);
    let mut ready = MountReady {
        protocol: PROTOCOL_VERSION,
        pid: std::process::id(),
        mount_path: WirePath::from(dir),
        mount_id: mounted.identity.mount_id,
        unique_mount_id: mounted.identity.unique_id,
        device: Device { major: mounted.identity.device.major, minor: mounted.identity.device.minor },
        passthrough: Passthrough { active: false, reason: None },
        writeback: false,
    };
    match role {
        "speaks another version" => ready.protocol += 1,
        "lies about its mount" => ready.mount_id += 1_000_000,
        _ => {}
    }
    let escrow = [mounted.device.as_fd()];
    let fds = if role == "sends escrow" { &escrow[..] } else { &[] };
    events.send(Envelope::new(hello.envelope.id, Event::MountReady(ready)), fds, Some(soon())).unwrap();
    Worker { role, mounted, events }.serve(&mut commands);
}

struct Worker<'a> {
    role: &'a str,
    mounted: MountedFuse,
    events: Sender<Event>,
}

impl Worker<'_> {
    fn serve(&self, commands: &mut Receiver<Command>) {
        match self.role {
            "exits when ready" => exit(0),
            "has a child with its socket" => {
                let socket = commands.as_fd().try_clone_to_owned().unwrap();
                let child = std::process::Command::new("sleep").arg("60").stdin(socket).spawn();
                drop(child.unwrap());
            }
            "is deaf" => thread::sleep(Duration::from_mins(1)),
            "raves when ready" => {
                // A frame of no length: the stream has lost its boundaries.
                let socket = commands.as_fd();
                rustix::io::write(socket, &[0; 4]).unwrap();
                thread::sleep(Duration::from_mins(1));
            }
            _ => {}
        }
        let mut slow_stop = None;
        while let Ok(Received { envelope, fds }) = commands.recv(None) {
            let say = |event| self.events.send(Envelope::new(envelope.id, event), &[], Some(soon())).unwrap();
            match envelope.msg {
                Command::Hello { .. } => say(Event::failed(ErrorKind::Usage, "again?")),
                Command::Status {} => {
                    say(self.status());
                    if let Some(id) = slow_stop {
                        thread::sleep(Duration::from_secs(1));
                        let say =
                            |event| self.events.send(Envelope::new(id, event), &[], Some(soon())).unwrap();
                        self.stop(false, &say);
                    }
                }
                Command::Stop { .. } if self.role == "stops slowly" => slow_stop = Some(envelope.id),
                Command::Stop { force } => self.stop(force, &say),
                Command::Export { delete } => self.export(delete, &fds, &say),
                Command::Browse {} => say(Event::Browsing {}),
                Command::HandOver {} => say(Event::HandedOver {}),
                Command::Freeze {} | Command::Snapshot { .. } => {
                    say(Event::failed(ErrorKind::Failed, "there is nothing here"));
                }
            }
        }
    }

    fn status(&self) -> Event {
        if self.role == "fails at status" {
            return Event::failed(ErrorKind::NotPermitted, "none of your business");
        }
        Event::StatusOk(StatusOk {
            pid: std::process::id(),
            mount_path: WirePath::from(self.mounted.identity.path.clone()),
            requests: 42,
            operations: std::collections::BTreeMap::new(),
            oldest_request_ms: None,
            stuck_ms: None,
            uptime_ms: 1,
            read_only: false,
            fruitless: None,
            passed_opens: 0,
        })
    }

    fn stop(&self, force: bool, say: &dyn Fn(Event)) {
        if self.role == "ignores stop" {
            return;
        }
        let mode = if force { UnmountMode::Force } else { UnmountMode::Plain };
        match unmount(&self.mounted.identity, mode, soon()) {
            Ok(_) => say(Event::Stopping {}),
            Err(UnmountError::Busy { path }) => {
                let holder = Holder { pid: 1, name: "somebody".to_owned() };
                return say(Event::StopRefused(StopRefused::new(
                    format!("{} is busy", path.display()),
                    [holder],
                )));
            }
            Err(error) => return say(Event::failed(ErrorKind::Failed, error.to_string())),
        }
        if self.role == "flushes for ever" {
            thread::sleep(Duration::from_mins(1));
        }
        exit(0);
    }

    fn export(&self, delete: bool, fds: &[OwnedFd], say: &dyn Fn(Event)) {
        let [dest] = fds else { return say(Event::failed(ErrorKind::Usage, "one descriptor, please")) };
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
        let file = rustix::fs::openat(dest, "hello", flags, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
        std::fs::File::from(file).write_all(b"hello").unwrap();
        say(Event::ExportProgress(ExportProgress { files: 1, bytes: 5 }));
        if self.role == "exports for ever" {
            return;
        }
        say(Event::ExportNoted(ExportNoted {
            path: WirePath::from(".selvedge"),
            note: ExportNote::LeftAlone,
        }));
        if delete {
            return say(Event::failed(ErrorKind::Conflict, "it is mine"));
        }
        say(Event::ExportDone(ExportDone { files: 1, bytes: 5 }));
    }
}

/// Whether a process of this number is there, as a zombie too.
pub(crate) fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
