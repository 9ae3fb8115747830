//! Programs that use a mount: this test program, started again.
//!
//! An application and its test talk over a socket, which is the application's standard input: it asks for deaths of
//! the worker where it wants them, and the test tells it to end.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use selvedge_test_support::{Mounted, wait_until};
use tempfile::NamedTempFile;

use crate::scene::kill_and_replace;

const ROLE: &str = "SELVEDGE_TEST_APPLICATION";
const DIR: &str = "SELVEDGE_TEST_DIR";
const SEED: &str = "SELVEDGE_TEST_SEED";
const PROGRESS: &str = "SELVEDGE_TEST_PROGRESS";

/// What an application asks for, or is told.
const REPLACE: u8 = b'r';
const STARTED: u8 = b's';
const DONE: u8 = b'd';

/// What an application does in the directory it is given.
pub(crate) type Role = fn(&Talk);

/// All there are.
const ROLES: &[(&str, Role)] = &[
    ("open", crate::open::open_things_go_on),
    ("operations", crate::load::operations),
    ("changes", crate::once::changes),
    ("unrepeatable changes", crate::once::unrepeatable_changes),
    ("large files", crate::patched::large_files),
    ("much used files", crate::patched::much_used_files),
    ("system calls", crate::load::system_calls),
    ("programs", crate::load::programs),
    ("builds", crate::load::builds),
    ("forgotten", crate::forgotten::files_without_a_name),
    ("passed", crate::passthrough::passed_files_go_on),
    ("passes", crate::passthrough::passes_files),
    ("poisoned", crate::poison::poisoned),
    ("innocent", crate::poison::innocent),
    ("reader", crate::ending::read_only),
    ("sleeper", sleeper),
];

/// An application's side.
#[derive(Debug)]
pub(crate) struct Talk {
    socket: UnixStream,
    /// Its directory in the mount.
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    /// Where the test finds how far it has got.
    progress: File,
}

impl Talk {
    /// Says how many calls have been answered as they must.
    pub(crate) fn tell(&self, calls: u64) {
        self.progress.write_all_at(&calls.to_le_bytes(), 0).unwrap();
    }

    /// Has the worker killed; returns when a successor serves.
    pub(crate) fn replace_worker(&self) {
        (&self.socket).write_all(&[REPLACE]).unwrap();
        self.wait(DONE);
    }

    /// Says that everything runs.
    pub(crate) fn started(&self) {
        (&self.socket).write_all(&[STARTED]).unwrap();
    }

    /// Waits until the test wants the end.
    pub(crate) fn wait_for_end(&self) {
        self.wait(DONE);
    }

    fn wait(&self, what: u8) {
        let mut byte = [0];
        (&self.socket).read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], what);
    }
}

/// The body of the application's process: nothing, unless a test has started this program as one.
#[test]
fn application() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let progress = OpenOptions::new().write(true).open(std::env::var_os(PROGRESS).unwrap()).unwrap();
    let (_, play) = ROLES.iter().find(|(name, _)| *name == role).unwrap();
    play(&Talk { socket, dir, seed, progress });
}

/// Does nothing but hold the mount busy.
fn sleeper(talk: &Talk) {
    let _open = std::fs::File::open(&talk.dir).unwrap();
    talk.started();
    talk.wait_for_end();
}

/// The test's side of an application.
#[derive(Debug)]
pub(crate) struct Application {
    child: Child,
    socket: UnixStream,
    role: &'static str,
    progress: NamedTempFile,
}

impl Application {
    /// Starts an application that plays `role` in `dir`.
    pub(crate) fn start(role: &'static str, dir: &Path, seed: u64) -> Self {
        Self::start_by(&[std::env::current_exe().unwrap().to_str().unwrap()], role, dir, seed)
    }

    /// The same, started by a command that runs this program, or a copy of it.
    pub(crate) fn start_by(command: &[&str], role: &'static str, dir: &Path, seed: u64) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let progress = NamedTempFile::new().unwrap();
        progress.as_file().set_permissions(Permissions::from_mode(0o666)).unwrap();
        let (program, words) = command.split_first().unwrap();
        let child = Command::new(program)
            .args(words)
            .args(["--exact", "application::application", "--nocapture", "--test-threads=1"])
            .env(PROGRESS, progress.path())
            .env(ROLE, role)
            .env(DIR, dir)
            .env(SEED, seed.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
        Self { child, socket: ours, role, progress }
    }

    /// Waits until everything of it runs.
    #[track_caller]
    pub(crate) fn wait_started(&mut self) {
        let mut byte = [0];
        self.socket.read_exact(&mut byte).unwrap_or_else(|error| panic!("{}: {error}", self.role));
        assert_eq!(byte[0], STARTED);
    }

    /// Kills and replaces the worker as often as the application wants, until it has ended well; gives back what
    /// it has told.
    #[track_caller]
    pub(crate) fn serve(mut self, mount: &Mounted) -> u64 {
        let mut byte = [0];
        while self.socket.read(&mut byte).unwrap_or_else(|error| panic!("{}: {error}", self.role)) > 0 {
            assert_eq!(byte[0], REPLACE);
            kill_and_replace(mount);
            self.socket.write_all(&[DONE]).unwrap();
        }
        self.ended();
        self.calls()
    }

    /// Tells it to end, and waits until it has ended well; gives back how many calls it has verified.
    #[track_caller]
    pub(crate) fn end(mut self) -> u64 {
        // One that has ended before says so by its status.
        let _ = self.socket.write_all(&[DONE]);
        self.ended();
        self.calls()
    }

    #[track_caller]
    fn ended(&mut self) {
        wait_until(self.role, Duration::from_mins(4), || self.child.try_wait().unwrap().is_some());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the application {:?}: {status}", self.role);
    }

    /// How many calls have been answered as they must.
    pub(crate) fn calls(&self) -> u64 {
        let mut bytes = [0; 8];
        // Nothing has been said yet as long as the file is empty.
        let read = self.progress.as_file().read_at(&mut bytes, 0).unwrap();
        if read == bytes.len() { u64::from_le_bytes(bytes) } else { 0 }
    }

    /// Whether it has ended by itself, because something was not as it must be.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
