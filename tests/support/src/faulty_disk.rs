//! A file system that fails when it is told to: a directory of the host, served through FUSE, with a fault at one
//! call of the caller's choice.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags as HostRename};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Nothing changes behind the kernel's back, so it may remember for long.
const TTL: Duration = Duration::from_hours(1);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Any call: EIO, and nothing was done.
    Io,
    /// A call that takes room: ENOSPC, and nothing was done.
    Full,
    /// A call that takes room: EDQUOT, and nothing was done.
    Quota,
    /// A write of more than one byte writes half of them and says so.
    Short,
    /// A sync: EIO, once; the kernel forgets it then, as kernels do.
    Sync,
}

/// What a call does, as far as faults are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Reads.
    Read,
    /// Changes something that takes no room.
    Change,
    /// Takes room.
    Take,
    /// Writes bytes.
    Write,
    /// Makes durable.
    Sync,
}

impl Fault {
    const fn strikes(self, call: Call) -> bool {
        match self {
            Self::Io => true,
            Self::Full | Self::Quota => matches!(call, Call::Take | Call::Write),
            Self::Short => matches!(call, Call::Write),
            Self::Sync => matches!(call, Call::Sync),
        }
    }

    fn errno(self) -> Errno {
        match self {
            Self::Full => Errno::ENOSPC,
            Self::Quota => Errno::EDQUOT,
            Self::Io | Self::Short | Self::Sync => Errno::EIO,
        }
    }
}

/// The disk: mounted as long as it lives.
#[derive(Debug)]
pub struct FaultyDisk {
    place: PathBuf,
    backing: PathBuf,
    plan: Arc<Mutex<Plan>>,
    server: Option<JoinHandle<()>>,
    _scratch: TempDir,
}

/// Which call is to fail, and what came of it.
#[derive(Debug, Default)]
struct Plan {
    fault: Option<Fault>,
    /// How many calls that it strikes are still to pass.
    left: u64,
    fired: Option<String>,
}

impl FaultyDisk {
    /// A disk without faults.
    pub fn new() -> Self {
        let scratch = TempDir::new().unwrap();
        let (place, backing) = (scratch.path().join("disk"), scratch.path().join("backing"));
        for directory in [&place, &backing] {
            fs::create_dir(directory).unwrap();
        }
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let data = std::ffi::CString::new(data).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("faulty", &place, "fuse.faulty", flags, Some(data.as_c_str())).unwrap();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let served = Served::new(backing.clone(), Arc::clone(&plan));
        let session = Session::from_fd(served, device, SessionACL::All, Config::default()).unwrap();
        let server = std::thread::spawn(move || {
            let _ = session.run();
        });
        Self { place, backing, plan, server: Some(server), _scratch: scratch }
    }

    /// Where it is mounted. A test does not go there itself, but has its children do so.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// The host directory with what the disk shows, past all faults. What is put here must be new to the disk.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// Lets the call number `nth` (from 1) of those that `fault` strikes fail, from now on.
    pub fn fail_at(&self, nth: u64, fault: Fault) {
        *self.plan() = Plan { fault: Some(fault), left: nth, fired: None };
    }

    /// Lets nothing fail any more; says at which call the fault struck, if it did.
    pub fn heal(&self) -> Option<String> {
        std::mem::take(&mut *self.plan()).fired
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }
}

impl Default for FaultyDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.place, UnmountFlags::DETACH);
        if let Some(server) = self.server.take() {
            // It ends with the last file that a child has open, and children end before.
            let _ = server.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What serves the requests.
struct Served {
    backing: PathBuf,
    plan: Arc<Mutex<Plan>>,
    paths: Mutex<HashMap<u64, PathBuf>>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    next: AtomicU64,
}

impl Served {
    fn new(backing: PathBuf, plan: Arc<Mutex<Plan>>) -> Self {
        let paths = Mutex::new(HashMap::from([(1, PathBuf::new())]));
        Self { backing, plan, paths, files: Mutex::default(), next: AtomicU64::new(2) }
    }

    /// Passes a call, unless it is the one that fails.
    fn pass(&self, call: Call, what: &str, path: &Path) -> Result<(), Errno> {
        match self.strike(call, what, path) {
            Some(fault) => Err(fault.errno()),
            None => Ok(()),
        }
    }

    fn strike(&self, call: Call, what: &str, path: &Path) -> Option<Fault> {
        // Written by the kernel when it sees fit, so that counting it would count differently each time.
        if path.as_os_str().as_encoded_bytes().ends_with(b"-shm") {
            return None;
        }
        let mut plan = lock(&self.plan);
        let fault = plan.fault.filter(|fault| fault.strikes(call) && plan.left > 0)?;
        plan.left -= 1;
        if plan.left > 0 {
            return None;
        }
        plan.fired = Some(format!("{what} {}", path.display()));
        Some(fault)
    }

    fn path(&self, node: INodeNo) -> Result<PathBuf, Errno> {
        lock(&self.paths).get(&node.0).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        Ok(self.path(parent)?.join(name))
    }

    fn host(&self, path: &Path) -> PathBuf {
        self.backing.join(path)
    }

    fn node(&self, path: &Path) -> u64 {
        let mut paths = lock(&self.paths);
        if let Some((node, _)) = paths.iter().find(|(_, known)| *known == path) {
            return *node;
        }
        let node = self.next.fetch_add(1, Ordering::Relaxed);
        paths.insert(node, path.to_owned());
        node
    }

    fn forget(&self, path: &Path) {
        lock(&self.paths).retain(|_, known| known != path);
    }

    fn moved(&self, from: &Path, to: &Path) {
        self.forget(to);
        for known in lock(&self.paths).values_mut() {
            if let Ok(below) = known.strip_prefix(from) {
                *known = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            }
        }
    }

    fn attr(&self, path: &Path) -> Result<FileAttr, Errno> {
        let metadata = fs::symlink_metadata(self.host(path))?;
        let node = if path.as_os_str().is_empty() { 1 } else { self.node(path) };
        Ok(attr_of(node, &metadata))
    }

    fn keep(&self, file: File) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.files).insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<File>, Errno> {
        lock(&self.files).get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn set(
        &self,
        node: INodeNo,
        handle: Option<FileHandle>,
        mode: Option<u32>,
        size: Option<u64>,
    ) -> Result<FileAttr, Errno> {
        let path = self.path(node)?;
        self.pass(if size.is_some() { Call::Take } else { Call::Change }, "setattr", &path)?;
        if let Some(mode) = mode {
            fs::set_permissions(self.host(&path), fs::Permissions::from_mode(mode))?;
        }
        if let Some(size) = size {
            match handle {
                Some(handle) => self.file(handle)?.set_len(size)?,
                None => File::options().write(true).open(self.host(&path))?.set_len(size)?,
            }
        }
        self.attr(&path)
    }

    fn write_at(&self, node: INodeNo, handle: FileHandle, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let path = self.path(node).unwrap_or_default();
        let data = match self.strike(Call::Write, "write", &path) {
            Some(Fault::Short) if data.len() > 1 => &data[..data.len() / 2],
            Some(Fault::Short) | None => data,
            Some(fault) => return Err(fault.errno()),
        };
        self.file(handle)?.write_all_at(data, offset)?;
        Ok(data.len())
    }

    fn read_at(&self, node: INodeNo, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        self.pass(Call::Read, "read", &self.path(node).unwrap_or_default())?;
        let file = self.file(handle)?;
        let mut bytes = vec![0; size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn rename_at(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
        self.pass(Call::Take, "rename", to)?;
        let flags = HostRename::from_bits_retain(flags.bits());
        rustix::fs::renameat_with(CWD, self.host(from), CWD, self.host(to), flags)
            .map_err(|errno| Errno::from(io::Error::from(errno)))?;
        self.moved(from, to);
        Ok(())
    }

    fn opened(&self, path: &Path, flags: i32) -> Result<FileHandle, Errno> {
        self.pass(Call::Read, "open", path)?;
        // Appending is the kernel's business: it sends the offset.
        let flags = OFlags::from_bits_retain(flags.cast_unsigned()) - OFlags::APPEND - OFlags::TRUNC;
        let file = rustix::fs::open(self.host(path), flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Errno::from(io::Error::from(errno)))?;
        Ok(self.keep(file.into()))
    }

    fn made(&self, path: &Path, mode: u32) -> Result<(FileAttr, FileHandle), Errno> {
        self.pass(Call::Take, "create", path)?;
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(mode).open(self.host(path))?;
        self.forget(path);
        Ok((self.attr(path)?, self.keep(file)))
    }

    fn removed(&self, path: &Path, directory: bool) -> Result<(), Errno> {
        self.pass(Call::Change, if directory { "rmdir" } else { "unlink" }, path)?;
        let host = self.host(path);
        if directory {
            fs::remove_dir(host)?;
        } else {
            fs::remove_file(host)?;
        }
        self.forget(path);
        Ok(())
    }

    fn made_directory(&self, path: &Path, mode: u32) -> Result<FileAttr, Errno> {
        self.pass(Call::Take, "mkdir", path)?;
        fs::DirBuilder::new().mode(mode).create(self.host(path))?;
        self.forget(path);
        self.attr(path)
    }

    fn listed(&self, path: &Path) -> Result<Vec<(u64, FileType, std::ffi::OsString)>, Errno> {
        self.pass(Call::Read, "readdir", path)?;
        let mut entries = vec![(1, FileType::Directory, ".".into()), (1, FileType::Directory, "..".into())];
        for entry in fs::read_dir(self.host(path))? {
            let entry = entry?;
            let kind = kind_of(&entry.metadata()?);
            entries.push((self.node(&path.join(entry.file_name())), kind, entry.file_name()));
        }
        Ok(entries)
    }

    fn synced(&self, node: INodeNo, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        self.pass(Call::Sync, "fsync", &self.path(node).unwrap_or_default())?;
        sync()
    }
}

fn kind_of(metadata: &Metadata) -> FileType {
    if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile }
}

fn attr_of(node: u64, metadata: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanoseconds: i64| {
        UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), u32::try_from(nanoseconds).unwrap())
    };
    FileAttr {
        ino: INodeNo(node),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: kind_of(metadata),
        perm: u16::try_from(metadata.mode() & 0o7777).unwrap(),
        nlink: u32::try_from(metadata.nlink()).unwrap(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn empty(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.child(parent, name).and_then(|path| self.attr(&path)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let attr = self.path(node).and_then(|path| self.attr(&path)).or_else(|errno| match handle {
            Some(handle) => Ok(attr_of(node.0, &self.file(handle)?.metadata()?)),
            None => Err(errno),
        });
        match attr {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.set(node, handle, mode, size) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        match self.child(parent, name).and_then(|path| self.made_directory(&path, mode)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.child(parent, name).and_then(|path| self.removed(&path, false)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.child(parent, name).and_then(|path| self.removed(&path, true)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.child(parent, name).and_then(|from| {
            let to = self.child(new_parent, new_name)?;
            self.rename_at(&from, &to, flags)
        });
        empty(reply, renamed);
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.path(node).and_then(|path| self.opened(&path, flags.0)) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.child(parent, name).and_then(|path| self.made(&path, mode)) {
            Ok((attr, handle)) => reply.created(&TTL, &attr, Generation(0), handle, FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_at(node, handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_at(node, handle, offset, data) {
            Ok(written) => reply.written(u32::try_from(written).unwrap()),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.files).remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.synced(node, || Ok(self.file(handle)?.sync_data()?)));
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.synced(node, || Ok(())));
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocate = || {
            self.pass(Call::Take, "fallocate", &self.path(node).unwrap_or_default())?;
            let flags = rustix::fs::FallocateFlags::from_bits_retain(mode.cast_unsigned());
            rustix::fs::fallocate(self.file(handle)?.as_fd(), flags, offset, length)
                .map_err(|errno| Errno::from(io::Error::from(errno)))
        };
        empty(reply, allocate());
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match self.path(node).and_then(|path| self.listed(&path)) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        for (place, (node, kind, name)) in (1..).zip(entries).skip(usize::try_from(offset).unwrap()) {
            if reply.add(INodeNo(node), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
