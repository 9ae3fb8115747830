//! The helper that registers files for the mounts of ordinary users: what it makes possible, and what it refuses.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::XattrFlags;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, send, sendmsg, socketpair, sockopt,
};
use selvedge_test_support::{Mounted, Repo, copy_program, wait_until};

use crate::WORKER;
use crate::unprivileged::{AS_NOBODY, NOBODY, as_nobody, nobodys, script};

const HELPER: &str = env!("CARGO_BIN_EXE_selvedge-backing-helper");
const NAME: &str = "selvedge-backing-helper";
const SOON: Duration = Duration::from_secs(20);

/// `setcap cap_sys_admin+ep`: `struct vfs_cap_data` of the second revision.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A copy of the helper in `directory`, with the capability or without.
fn install(directory: &Path, capable: bool) -> PathBuf {
    let program = directory.join(NAME);
    copy_program(HELPER, &program);
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    chown(&program, Some(0), Some(0)).unwrap();
    if capable {
        rustix::fs::setxattr(&program, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
    }
    program
}

fn passed_opens(mount: &Mounted) -> u64 {
    mount.status(Duration::from_secs(5)).unwrap().passed_opens
}

/// Requests of reading and writing so far.
fn contents(mount: &Mounted) -> u64 {
    let operations = mount.status(Duration::from_secs(5)).unwrap().operations;
    ["read", "write"].iter().filter_map(|name| operations.get(*name)).sum()
}

/// Writes a file and reads it, with one handle for each.
const WORK: &str = "head -c 300000 /dev/urandom >\"$1/new\" && sync \"$1/new\" && cmp \"$1/new\" \"$1/new\"";

#[test]
fn the_files_of_an_ordinary_user_are_passed_through_by_the_helper() {
    let (repo, worker) = nobodys(|source| fs::write(source.join("base"), b"base").unwrap());
    install(repo.dir(), true);
    // A successor is started without the search path that a first worker is.
    let mount = repo.mounting(&worker).recovering().through("/usr/bin/setpriv", &AS_NOBODY).start();
    let passthrough = &mount.ready().passthrough;
    assert!(passthrough.active, "{passthrough:?}");
    assert!(script(WORK, mount.path()));
    assert!(passed_opens(&mount) >= 3);
    assert_eq!(contents(&mount), 0);
    // A worker that takes over goes on so, and lets go of what the dead one had registered.
    let before = mount.pid();
    let dead = rustix::process::Pid::from_raw(before.cast_signed()).unwrap();
    rustix::process::kill_process(dead, rustix::process::Signal::KILL).unwrap();
    assert!(script(WORK, mount.path()));
    wait_until("a successor", SOON, || mount.pid() != before);
    assert!(passed_opens(&mount) >= 3);
    assert_eq!(contents(&mount), 0);
    mount.stop();
}

#[test]
fn a_helper_that_is_killed_is_started_again() {
    let (repo, worker) = nobodys(|_| ());
    let program = install(repo.dir(), true);
    let mount = as_nobody(repo.mounting(&worker)).start();
    let helpers = || -> Vec<String> {
        let output = Command::new("sh")
            .args(["-c", "for p in /proc/[0-9]*; do [ \"$(readlink $p/exe)\" = \"$0\" ] && echo ${p#/proc/}; done; true"])
            .arg(&program)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    };
    assert!(script("echo x >\"$1/first\"", mount.path()));
    let [helper] = &helpers()[..] else { panic!("not one helper") };
    assert!(script(&format!("kill -KILL {helper}"), mount.path()));
    let before = passed_opens(&mount);
    assert!(script(WORK, mount.path()));
    assert!(passed_opens(&mount) >= before + 3);
    mount.stop();
    wait_until("the helper's end", SOON, || helpers().is_empty());
}

#[test]
fn without_the_capability_the_helper_is_named_and_contents_are_served() {
    let (repo, worker) = nobodys(|_| ());
    let program = install(repo.dir(), false);
    let mount = as_nobody(repo.mounting(&worker)).start();
    let passthrough = mount.ready().passthrough.clone();
    let reason = passthrough.reason.unwrap();
    assert!(
        !passthrough.active && reason.contains(&format!("setcap cap_sys_admin+ep {}", program.display()))
    );
    assert!(script(WORK, mount.path()));
    assert_eq!(passed_opens(&mount), 0);
    mount.stop();
    fs::remove_file(&program).unwrap();
    let mount = as_nobody(repo.mounting(&worker)).start();
    let reason = mount.ready().passthrough.reason.clone().unwrap();
    assert!(reason.contains("not installed"), "{reason}");
    mount.stop();
}

#[test]
fn what_is_open_for_reading_alone_stays_so_on_a_read_only_mount() {
    let (repo, worker) = nobodys(|source| fs::write(source.join("large"), vec![7; 1 << 20]).unwrap());
    install(repo.dir(), true);
    let mount = as_nobody(repo.mounting(&worker).option("--read-only")).start();
    let reason = mount.ready().passthrough.reason.clone().unwrap();
    assert!(reason.contains("open for writing"), "{reason}");
    assert!(script("test $(wc -c <\"$1/large\") = 1048576", mount.path()));
    mount.stop();
}

/// A helper of an ordinary user, who asks it for whatever they please.
struct Asked {
    socket: OwnedFd,
    child: Child,
    _dir: Repo,
    files: PathBuf,
}

const OPEN: [u8; 8] = [1, 1, 0, 0, 0, 0, 0, 0];
const CLOSE: [u8; 8] = [1, 2, 0, 0, 1, 0, 0, 0];

/// The numbers under which it tells why it refuses.
const NONSENSE: u8 = 0;
const DESCRIPTORS: u8 = 1;
const NOT_THE_DEVICE: u8 = 2;
const NOT_REGULAR: u8 = 3;
const NOT_OWN: u8 = 4;
const NOT_WRITABLE: u8 = 5;
const FILE_SYSTEM: u8 = 6;

fn refused(why: u8) -> Vec<u8> {
    vec![1, 2, 0, 0, why, 0, 0, 0]
}

/// What a kernel answers about a device that is no connection: EPERM.
fn failed() -> Vec<u8> {
    vec![1, 1, 0, 0, 1, 0, 0, 0]
}

impl Asked {
    fn new() -> Self {
        let (repo, _) = nobodys(|_| ());
        let program = install(repo.dir(), true);
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(SOON)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(AS_NOBODY).arg(program).stdin(Stdio::from(theirs));
        let child = command.spawn().unwrap();
        let files = repo.dir().join("files");
        fs::create_dir(&files).unwrap();
        Self { socket, child, files, _dir: repo }
    }

    fn tell(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    fn ask(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Vec<u8> {
        self.tell(bytes, fds);
        let mut answer = [0; 64];
        let (length, _) = recv(&self.socket, &mut answer, RecvFlags::empty()).unwrap();
        answer[..length].to_vec()
    }

    /// A file of `owner` with some bytes, opened as `how` says.
    fn file(&self, name: &str, owner: u32, how: &OpenOptions) -> File {
        let path = self.files.join(name);
        fs::write(&path, b"some").unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        how.open(path).unwrap()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn both() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

#[test]
fn the_helper_registers_nothing_that_its_user_could_not_write_anyway() {
    let asked = Asked::new();
    let device = both().open("/dev/fuse").unwrap();
    let open = |file: &File| asked.ask(&OPEN, &[device.as_fd(), file.as_fd()]);
    let own = asked.file("own", NOBODY, &both());
    // The checks are passed; no file system is mounted at this end of the device.
    assert_eq!(open(&own), failed());
    assert_eq!(open(&asked.file("roots", 0, &both())), refused(NOT_OWN));
    assert_eq!(open(&asked.file("read", NOBODY, OpenOptions::new().read(true))), refused(NOT_WRITABLE));
    assert_eq!(open(&asked.file("write", NOBODY, OpenOptions::new().write(true))), refused(NOT_WRITABLE));
    assert_eq!(open(&asked.file("append", NOBODY, both().append(true))), refused(NOT_WRITABLE));
    let mut by_path = OpenOptions::new();
    by_path.read(true).custom_flags(libc::O_PATH);
    assert_eq!(open(&asked.file("path", NOBODY, &by_path)), refused(NOT_WRITABLE));
    assert_eq!(open(&File::open(&asked.files).unwrap()), refused(NOT_REGULAR));
    assert_eq!(open(&device), refused(NOT_REGULAR));
    assert_eq!(asked.ask(&OPEN, &[device.as_fd(), asked.socket.as_fd()]), refused(NOT_REGULAR));
    let process = both().open(format!("/proc/{}/coredump_filter", asked.child.id()));
    // Where root owns it, who owns it is asked first.
    assert!([refused(NOT_OWN), refused(FILE_SYSTEM)].contains(&open(&process.unwrap())));
    assert_eq!(asked.ask(&OPEN, &[own.as_fd(), own.as_fd()]), refused(NOT_THE_DEVICE));
    let null = both().open("/dev/null").unwrap();
    assert_eq!(asked.ask(&OPEN, &[null.as_fd(), own.as_fd()]), refused(NOT_THE_DEVICE));
    assert_eq!(asked.ask(&CLOSE, &[own.as_fd()]), refused(NOT_THE_DEVICE));
    assert_eq!(asked.ask(&CLOSE, &[device.as_fd()]), failed());
}

#[test]
fn the_helper_registers_no_file_of_a_fuse_mount() {
    let asked = Asked::new();
    let repo = Repo::empty();
    let mount = repo.mounting(WORKER).option("--allow-other").start();
    let path = mount.path().join("file");
    fs::write(&path, b"x").unwrap();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    let file = both().open(&path).unwrap();
    let device = both().open("/dev/fuse").unwrap();
    assert_eq!(asked.ask(&OPEN, &[device.as_fd(), file.as_fd()]), refused(FILE_SYSTEM));
    drop(file);
    mount.stop();
}

#[test]
fn the_helper_refuses_nonsense_and_goes_on() {
    let asked = Asked::new();
    let device = both().open("/dev/fuse").unwrap();
    let own = asked.file("own", NOBODY, &both());
    let (device, own) = (device.as_fd(), own.as_fd());
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", asked.child.id())).unwrap().count();
    assert_eq!(asked.ask(&[0], &[]), refused(NONSENSE));
    let before = descriptors();
    for bytes in [&[0][..], &[1; 7], &[1; 8], &[255; 9], &[0; 4096], &[1, 9, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(asked.ask(bytes, &[]), refused(NONSENSE), "{bytes:?}");
        assert_eq!(asked.ask(bytes, &[device, own]), refused(NONSENSE), "{bytes:?}");
    }
    for fds in [&[][..], &[device], &[device, own, own], &[device, own, own, own, own, own, own, own]] {
        assert_eq!(asked.ask(&OPEN, fds), refused(DESCRIPTORS), "{} descriptors", fds.len());
    }
    for fds in [&[][..], &[device, own]] {
        assert_eq!(asked.ask(&CLOSE, fds), refused(DESCRIPTORS), "{} descriptors", fds.len());
    }
    // It keeps none of what it was given.
    assert_eq!(descriptors(), before);
    assert_eq!(asked.ask(&OPEN, &[device, own]), failed());
}

#[test]
fn the_helper_keeps_one_capability_which_is_not_in_force_while_it_waits() {
    let mut asked = Asked::new();
    assert_eq!(asked.ask(&[0], &[]), refused(NONSENSE));
    let status = fs::read_to_string(format!("/proc/{}/status", asked.child.id())).unwrap();
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(line("CapPrm:"), "0000000000200000");
    for set in ["CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (line("NoNewPrivs:"), line("Uid:")),
        ("1".to_owned(), format!("{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"))
    );
    // An empty message is the end, as the end of the socket is.
    send(&asked.socket, &[], SendFlags::NOSIGNAL).unwrap();
    assert!(asked.child.wait().unwrap().success());
}

#[test]
fn the_helper_is_not_to_be_started_by_hand() {
    for (arguments, stdin) in [(&["--help"][..], "/dev/null"), (&[], "/dev/null")] {
        let stdin = File::open(stdin).unwrap();
        let output = Command::new(HELPER).args(arguments).stdin(stdin).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("by nobody else"), "{output:?}");
    }
}
