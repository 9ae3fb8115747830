//! Random system calls in a mount and in a directory of the host: the same results, the same error numbers, and the
//! same tree in the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::WORKER;
use selvedge_test_support::Repo;

/// Sequences that are tried, unless `SELVEDGE_TEST_SEQUENCES` says how many.
const SEQUENCES: u32 = 150;

/// Directories of the imported tree, each the start of one sequence; shrinking a failure uses some, too.
const STARTS: usize = 600;

/// Where things may be, or not: in directories, through links, with a slash at the end.
const PATHS: &[&str] = &[
    "a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/f", "l", "l/a", "x", "x/y", "a/x", "d/", "a/", "new/",
    "b/", "loop", "loop/a", "d/../b", "d/.", "d/e/..", "",
];

/// How many descriptors a sequence holds at once.
const SLOTS: usize = 4;

#[derive(Debug, Clone)]
enum Call {
    Open { slot: usize, path: usize, flags: u32, mode: u32 },
    Close { slot: usize },
    Read { slot: usize, offset: u64, length: usize },
    Write { slot: usize, offset: u64, length: usize, byte: u8 },
    Append { slot: usize, length: usize, byte: u8 },
    SetLength { slot: usize, length: u64 },
    Allocate { slot: usize, how: usize, offset: u64, length: u64 },
    Sync { slot: usize },
    FdStat { slot: usize },
    FdMode { slot: usize, mode: u32 },
    Mkdir { path: usize, mode: u32 },
    Rmdir { path: usize },
    Unlink { path: usize },
    Rename { from: usize, to: usize, how: usize },
    Link { from: usize, to: usize, follow: bool },
    Symlink { path: usize, target: usize },
    Readlink { path: usize },
    Fifo { path: usize, mode: u32 },
    Chmod { path: usize, mode: u32 },
    Chown { path: usize, owner: Option<u32>, group: Option<u32>, follow: bool },
    Truncate { path: usize, length: u64 },
    Times { path: usize, seconds: i64, nanoseconds: i64, follow: bool },
    SetXattr { path: usize, name: usize, value: u8, how: usize },
    RemoveXattr { path: usize, name: usize },
    ListXattr { path: usize },
    Access { path: usize, mode: u32 },
    Stat { path: usize, follow: bool },
    List { path: usize },
}

/// Who makes a call: root, or somebody in a second group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    User,
}

const USER: u32 = 4242;
const SECOND_GROUP: u32 = 4343;

const OPEN_FLAGS: &[OFlags] = &[
    OFlags::RDONLY,
    OFlags::RDWR,
    OFlags::WRONLY,
    OFlags::RDWR.union(OFlags::CREATE),
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL),
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::TRUNC),
    OFlags::RDONLY.union(OFlags::TRUNC),
    OFlags::RDWR.union(OFlags::APPEND).union(OFlags::CREATE),
    OFlags::RDONLY.union(OFlags::DIRECTORY),
    OFlags::RDONLY.union(OFlags::NOFOLLOW),
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::NOFOLLOW),
];

const RENAME_FLAGS: &[RenameFlags] =
    &[RenameFlags::empty(), RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];

const XATTRS: &[&str] = &["user.a", "user.b", "trusted.c", "system.none", "user."];

fn calls() -> impl Strategy<Value = Vec<(Who, Call)>> {
    let path = || 0..PATHS.len();
    let slot = || 0..SLOTS;
    let mode = || prop_oneof![Just(0o644), Just(0o755), 0_u32..0o7777];
    let id = || proptest::option::of(prop_oneof![Just(0_u32), Just(USER), Just(SECOND_GROUP), Just(7)]);
    let offset = || prop_oneof![0..100_u64, 0..20_000_u64];
    let call = prop_oneof![
        6 => (slot(), path(), any::<u32>(), mode())
            .prop_map(|(slot, path, flags, mode)| Call::Open { slot, path, flags, mode }),
        1 => slot().prop_map(|slot| Call::Close { slot }),
        3 => (slot(), offset(), 0..9000_usize).prop_map(|(slot, offset, length)| Call::Read { slot, offset, length }),
        4 => (slot(), offset(), 0..9000_usize, any::<u8>())
            .prop_map(|(slot, offset, length, byte)| Call::Write { slot, offset, length, byte }),
        2 => (slot(), 0..3000_usize, any::<u8>()).prop_map(|(slot, length, byte)| Call::Append { slot, length, byte }),
        1 => (slot(), offset()).prop_map(|(slot, length)| Call::SetLength { slot, length }),
        2 => (slot(), 0..5_usize, offset(), 1..9000_u64)
            .prop_map(|(slot, how, offset, length)| Call::Allocate { slot, how, offset, length }),
        1 => slot().prop_map(|slot| Call::Sync { slot }),
        2 => slot().prop_map(|slot| Call::FdStat { slot }),
        1 => (slot(), mode()).prop_map(|(slot, mode)| Call::FdMode { slot, mode }),
        3 => (path(), mode()).prop_map(|(path, mode)| Call::Mkdir { path, mode }),
        2 => path().prop_map(|path| Call::Rmdir { path }),
        3 => path().prop_map(|path| Call::Unlink { path }),
        5 => (path(), path(), 0..RENAME_FLAGS.len()).prop_map(|(from, to, how)| Call::Rename { from, to, how }),
        3 => (path(), path(), any::<bool>()).prop_map(|(from, to, follow)| Call::Link { from, to, follow }),
        2 => (path(), path()).prop_map(|(path, target)| Call::Symlink { path, target }),
        1 => path().prop_map(|path| Call::Readlink { path }),
        1 => (path(), mode()).prop_map(|(path, mode)| Call::Fifo { path, mode }),
        3 => (path(), mode()).prop_map(|(path, mode)| Call::Chmod { path, mode }),
        3 => (path(), id(), id(), any::<bool>())
            .prop_map(|(path, owner, group, follow)| Call::Chown { path, owner, group, follow }),
        2 => (path(), offset()).prop_map(|(path, length)| Call::Truncate { path, length }),
        2 => (path(), -5..5_000_000_000_i64, 0..1_000_000_000_i64, any::<bool>()).prop_map(
            |(path, seconds, nanoseconds, follow)| Call::Times { path, seconds, nanoseconds, follow }
        ),
        2 => (path(), 0..XATTRS.len(), any::<u8>(), 0..3_usize)
            .prop_map(|(path, name, value, how)| Call::SetXattr { path, name, value, how }),
        1 => (path(), 0..XATTRS.len()).prop_map(|(path, name)| Call::RemoveXattr { path, name }),
        1 => path().prop_map(|path| Call::ListXattr { path }),
        2 => (path(), 0..8_u32).prop_map(|(path, mode)| Call::Access { path, mode }),
        2 => (path(), any::<bool>()).prop_map(|(path, follow)| Call::Stat { path, follow }),
        1 => path().prop_map(|path| Call::List { path }),
    ];
    let who = prop_oneof![2 => Just(Who::Root), 1 => Just(Who::User)];
    prop::collection::vec((who, call), 1..60)
}

/// One of the two directories in which the same is done.
struct Place {
    root: OwnedFd,
    slots: [Option<OwnedFd>; SLOTS],
}

/// What a call said.
type Outcome = Result<String, Errno>;

impl Place {
    fn new(root: &Path) -> Self {
        Self { root: File::open(root).unwrap().into(), slots: Default::default() }
    }

    /// Makes the call as `who`. Only this thread changes its user, and back again.
    fn make(&mut self, who: Who, call: &Call) -> Outcome {
        if who == Who::Root {
            return self.call(call);
        }
        if matches!(call, Call::Chown { owner: None, group: None, .. }) {
            // While the file is open for writing the kernel does not let it be told from a write.
            self.slots = Default::default();
        }
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        set_thread_groups(&[Gid::from_raw(SECOND_GROUP)]).unwrap();
        set_thread_res_gid(None, gid, None).unwrap();
        set_thread_res_uid(None, uid, None).unwrap();
        let outcome = self.call(call);
        set_thread_res_uid(None, Uid::ROOT, None).unwrap();
        set_thread_res_gid(None, Gid::ROOT, None).unwrap();
        set_thread_groups(&[]).unwrap();
        outcome
    }

    fn slot(&self, slot: usize) -> Result<&OwnedFd, Errno> {
        self.slots[slot].as_ref().ok_or(Errno::BADF)
    }

    fn call(&mut self, call: &Call) -> Outcome {
        match *call {
            Call::Open { slot, path, flags, mode } => {
                let flags = OPEN_FLAGS[flags as usize % OPEN_FLAGS.len()];
                let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
                self.slots[slot] = None;
                let mode = Mode::from_raw_mode(mode & 0o777);
                self.slots[slot] = Some(rustix::fs::openat(&self.root, PATHS[path], flags, mode)?);
                Ok(String::new())
            }
            Call::Close { slot } => {
                self.slots[slot] = None;
                Ok(String::new())
            }
            Call::Read { .. }
            | Call::Write { .. }
            | Call::Append { .. }
            | Call::SetLength { .. }
            | Call::Allocate { .. }
            | Call::Sync { .. }
            | Call::FdStat { .. }
            | Call::FdMode { .. } => self.descriptor_call(call),
            _ => self.path_call(call),
        }
    }

    fn descriptor_call(&self, call: &Call) -> Outcome {
        match *call {
            Call::Read { slot, offset, length } => {
                let mut buffer = vec![0; length];
                let read = rustix::io::pread(self.slot(slot)?, &mut buffer, offset)?;
                Ok(blake(&buffer[..read]))
            }
            Call::Write { slot, offset, length, byte } => {
                let written = rustix::io::pwrite(self.slot(slot)?, &vec![byte; length], offset)?;
                Ok(written.to_string())
            }
            Call::Append { slot, length, byte } => {
                let file = self.slot(slot)?;
                // A pipe without a reader would end the process.
                if FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) != FileType::RegularFile {
                    return Ok("not a file".to_owned());
                }
                Ok(rustix::io::write(file, &vec![byte; length])?.to_string())
            }
            Call::SetLength { slot, length } => done(rustix::fs::ftruncate(self.slot(slot)?, length)),
            Call::Allocate { slot, how, offset, length } => {
                let flags = [
                    FallocateFlags::empty(),
                    FallocateFlags::KEEP_SIZE,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    FallocateFlags::ZERO_RANGE,
                    FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                ][how];
                done(rustix::fs::fallocate(self.slot(slot)?, flags, offset, length))
            }
            Call::Sync { slot } => done(rustix::fs::fsync(self.slot(slot)?)),
            Call::FdStat { slot } => Ok(describe(&rustix::fs::fstat(self.slot(slot)?)?)),
            Call::FdMode { slot, mode } => {
                done(rustix::fs::fchmod(self.slot(slot)?, Mode::from_raw_mode(mode)))
            }
            _ => unreachable!("calls on paths are made elsewhere"),
        }
    }

    fn path_call(&self, call: &Call) -> Outcome {
        let root = self.root.as_fd();
        let follow_flags = |follow| if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        match *call {
            Call::Mkdir { path, mode } => {
                done(rustix::fs::mkdirat(root, PATHS[path], Mode::from_raw_mode(mode & 0o1777)))
            }
            Call::Rmdir { path } => done(rustix::fs::unlinkat(root, PATHS[path], AtFlags::REMOVEDIR)),
            Call::Unlink { path } => done(rustix::fs::unlinkat(root, PATHS[path], AtFlags::empty())),
            Call::Rename { from, to, how } => {
                done(rustix::fs::renameat_with(root, PATHS[from], root, PATHS[to], RENAME_FLAGS[how]))
            }
            Call::Link { from, to, follow } => {
                let flags = if follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
                done(rustix::fs::linkat(root, PATHS[from], root, PATHS[to], flags))
            }
            Call::Symlink { path, target } => done(rustix::fs::symlinkat(PATHS[target], root, PATHS[path])),
            Call::Readlink { path } => {
                let target = rustix::fs::readlinkat(root, PATHS[path], Vec::new())?;
                Ok(target.to_string_lossy().into_owned())
            }
            Call::Fifo { path, mode } => {
                let mode = Mode::from_raw_mode(mode & 0o777);
                done(rustix::fs::mknodat(root, PATHS[path], FileType::Fifo, mode, 0))
            }
            Call::Chmod { path, mode } => {
                let mode = Mode::from_raw_mode(mode);
                done(rustix::fs::chmodat(root, PATHS[path], mode, AtFlags::empty()))
            }
            Call::Chown { path, owner, group, follow } => {
                let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
                done(rustix::fs::chownat(root, PATHS[path], owner, group, follow_flags(follow)))
            }
            Call::Truncate { path, length } => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let file = rustix::fs::openat(root, PATHS[path], flags, Mode::empty())?;
                done(rustix::fs::ftruncate(file, length))
            }
            Call::Times { path, seconds, nanoseconds, follow } => {
                let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
                let times = Timestamps { last_access: time, last_modification: time };
                let flags = follow_flags(follow);
                rustix::fs::utimensat(root, PATHS[path], &times, flags)?;
                let stat = rustix::fs::statat(root, PATHS[path], flags)?;
                Ok(format!("{} {}", stat.st_mtime, stat.st_mtime_nsec))
            }
            Call::Access { path, mode } => {
                let mode = rustix::fs::Access::from_bits_retain(mode);
                done(rustix::fs::accessat(root, PATHS[path], mode, AtFlags::EACCESS))
            }
            Call::Stat { path, follow } => {
                Ok(describe(&rustix::fs::statat(root, PATHS[path], follow_flags(follow))?))
            }
            Call::List { path } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(root, PATHS[path], flags, Mode::empty())?;
                let mut names = Vec::new();
                for entry in Dir::read_from(&directory)? {
                    let entry = entry?;
                    names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
                }
                names.sort();
                Ok(names.join("\n"))
            }
            _ => self.xattr_call(call),
        }
    }

    fn xattr_call(&self, call: &Call) -> Outcome {
        // These calls know no directory to start at; what they follow is opened first.
        let open = |path: usize| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            rustix::fs::openat(&self.root, PATHS[path], flags, Mode::empty())
        };
        match *call {
            Call::SetXattr { path, name, value, how } => {
                let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE][how];
                let value = vec![value; usize::from(value)];
                done(rustix::fs::fsetxattr(open(path)?, XATTRS[name], &value, flags))
            }
            Call::RemoveXattr { path, name } => done(rustix::fs::fremovexattr(open(path)?, XATTRS[name])),
            Call::ListXattr { path } => xattrs(&open(path)?),
            _ => unreachable!("every other call is made elsewhere"),
        }
    }
}

fn done(result: rustix::io::Result<()>) -> Outcome {
    result.map(|()| String::new())
}

fn blake(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte) + 1));
    format!("{} bytes {sum:x}", bytes.len())
}

/// What stat(2) must agree on; the size of a directory is the file system's own affair.
fn describe(stat: &rustix::fs::Stat) -> String {
    let size = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { 0 } else { stat.st_size };
    format!("{:o} {} {} {} {size}", stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid)
}

fn xattrs(file: &OwnedFd) -> Outcome {
    let mut room = [0_u8; 4096];
    let length = rustix::fs::flistxattr(file, &mut room[..])?;
    let mut found = BTreeMap::new();
    for name in room[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = [0_u8; 512];
        let name = std::str::from_utf8(name).unwrap();
        let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        found.insert(name.to_owned(), value[..length].to_vec());
    }
    Ok(format!("{found:?}"))
}

/// Everything below a directory, a line each; names of one file share a number.
fn tree(root: &Path) -> Vec<String> {
    let mut numbers = BTreeMap::new();
    let mut lines = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let meta = fs::symlink_metadata(&path).unwrap();
        let next = numbers.len();
        let number = *numbers.entry(meta.ino()).or_insert(next);
        let content = if meta.is_file() {
            blake(&fs::read(&path).unwrap())
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            String::new()
        };
        let attributes = if meta.is_file() || meta.is_dir() {
            xattrs(&File::open(&path).unwrap().into()).unwrap()
        } else {
            String::new()
        };
        lines.push(format!(
            "{} {:o} {} {}:{} #{number} {content} {attributes}",
            relative.display(),
            meta.mode(),
            meta.nlink(),
            meta.uid(),
            meta.gid()
        ));
        if meta.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort_by(|one, two| two.as_bytes().cmp(one.as_bytes()));
            pending.extend(names.iter().map(|name| relative.join(name)));
        }
    }
    lines
}

/// The start of a sequence: some of everything.
fn furnish(root: &Path) {
    fs::DirBuilder::new().mode(0o777).create(root).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(root.join("a"), [1; 5000]).unwrap();
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o2775)).unwrap();
    std::os::unix::fs::chown(root.join("d"), Some(USER), Some(SECOND_GROUP)).unwrap();
    fs::write(root.join("d/a"), b"in a directory").unwrap();
    std::os::unix::fs::chown(root.join("d/a"), Some(USER), Some(USER)).unwrap();
    fs::hard_link(root.join("d/a"), root.join("d/e/f")).unwrap();
    std::os::unix::fs::symlink("d", root.join("l")).unwrap();
    std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
}

#[test]
fn random_calls_end_as_on_the_host() {
    let sequences = std::env::var("SELVEDGE_TEST_SEQUENCES").ok().and_then(|count| count.parse().ok());
    let repo = Repo::with_tree(|source| {
        for start in 0..STARTS {
            furnish(&source.join(start.to_string()));
        }
    });
    fs::set_permissions(repo.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = repo.mounting(WORKER).option("--allow-other").start();
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let next = AtomicUsize::new(0);
    let config = ProptestConfig {
        cases: sequences.unwrap_or(SEQUENCES),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(calls in calls())| {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let host = repo.dir().join(format!("host{at}"));
        furnish(&host);
        let mounted = mount.path().join(at.to_string());
        if at >= STARTS {
            let copied = Command::new("cp").arg("-a").arg(&host).arg(&mounted).status().unwrap();
            assert!(copied.success());
        }
        let (mut here, mut there) = (Place::new(&mounted), Place::new(&host));
        for (who, call) in &calls {
            let (ours, hosts) = (here.make(*who, call), there.make(*who, call));
            prop_assert_eq!(ours, hosts, "{:?} {:?}", who, call);
        }
        prop_assert_eq!(tree(&mounted), tree(&host));
        drop((here, there));
        fs::remove_dir_all(&host).unwrap();
    });
    assert!(next.load(Ordering::Relaxed) >= sequences.unwrap_or(SEQUENCES) as usize);
    mount.stop();
}
