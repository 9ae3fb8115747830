//! A FUSE file system that keeps everything in memory, for nobody but itself: what its rows take is what the kernel's
//! requests take, whoever answers them, and no server that asks more of itself can be faster. It starts with a copy of a
//! directory, asks of the kernel what a worker asks of it, and is served by as many threads.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, SessionACL, TimeOrNow, WriteFlags,
};

/// How long the kernel may believe what it is told.
const TTL: Duration = Duration::from_hours(24);

/// As many as a worker has.
const THREADS: usize = 4;

/// What a worker asks of the kernel, too, but for what belongs to access control lists.
const CAPABILITIES: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2);

const ROOT: u64 = 1;

/// The names in a directory. A position in a listing is a place, which nobody else gets.
#[derive(Debug, Default)]
struct Names {
    places: Vec<Option<(OsString, u64)>>,
    by_name: HashMap<OsString, usize>,
}

impl Names {
    fn find(&self, name: &OsStr) -> Option<u64> {
        self.places[*self.by_name.get(name)?].as_ref().map(|(_, ino)| *ino)
    }

    fn put(&mut self, name: &OsStr, ino: u64) {
        self.take(name);
        self.by_name.insert(name.to_owned(), self.places.len());
        self.places.push(Some((name.to_owned(), ino)));
    }

    fn take(&mut self, name: &OsStr) -> Option<u64> {
        self.places[self.by_name.remove(name)?].take().map(|(_, ino)| ino)
    }
}

#[derive(Debug)]
enum Body {
    File(Vec<u8>),
    Directory(Names),
    Link(OsString),
}

#[derive(Debug)]
struct Node {
    attr: FileAttr,
    body: Body,
}

/// All nodes; a number is a place.
#[derive(Debug)]
struct Nodes(Vec<Option<Node>>);

impl Nodes {
    fn get(&mut self, ino: INodeNo) -> Result<&mut Node, Errno> {
        let at = usize::try_from(ino.0).map_err(|_| Errno::ENOENT)?;
        self.0.get_mut(at).and_then(Option::as_mut).ok_or(Errno::ENOENT)
    }

    fn names(&mut self, ino: INodeNo) -> Result<&mut Names, Errno> {
        match &mut self.get(ino)?.body {
            Body::Directory(names) => Ok(names),
            Body::File(_) | Body::Link(_) => Err(Errno::ENOTDIR),
        }
    }

    fn child(&mut self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let ino = self.names(parent)?.find(name).ok_or(Errno::ENOENT)?;
        Ok(self.get(INodeNo(ino))?.attr)
    }

    fn touch(&mut self, ino: INodeNo) -> Result<(), Errno> {
        let now = SystemTime::now();
        let attr = &mut self.get(ino)?.attr;
        (attr.mtime, attr.ctime) = (now, now);
        Ok(())
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, body: Body, attr: FileAttr) -> Result<FileAttr, Errno> {
        if self.names(parent)?.find(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let ino = self.0.len() as u64;
        let attr = FileAttr { ino: INodeNo(ino), ..attr };
        self.0.push(Some(Node { attr, body }));
        self.names(parent)?.put(name, ino);
        self.touch(parent)?;
        Ok(attr)
    }

    fn rename(&mut self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Result<(), Errno> {
        let ino = self.names(from.0)?.take(from.1).ok_or(Errno::ENOENT)?;
        self.names(to.0)?.put(to.1, ino);
        self.touch(from.0)?;
        self.touch(to.0)
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let ino = self.names(parent)?.take(name).ok_or(Errno::ENOENT)?;
        let node = self.get(INodeNo(ino))?;
        node.attr.nlink = node.attr.nlink.saturating_sub(1);
        self.touch(parent)
    }
}

#[derive(Debug)]
struct MemoryFs(Mutex<Nodes>);

fn new_attr(kind: FileType, mode: u32, (uid, gid): (u32, u32)) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(0),
        size: if kind == FileType::Directory { 4096 } else { 0 },
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: UNIX_EPOCH,
        kind,
        perm: u16::try_from(mode & 0o7777).unwrap_or_default(),
        nlink: 1,
        uid,
        gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl MemoryFs {
    /// With a copy of `tree`.
    fn copy_of(tree: &Path) -> Result<Self> {
        let mut nodes = Nodes(vec![None]);
        let attr = new_attr(FileType::Directory, 0o755, (0, 0));
        nodes.0.push(Some(Node {
            attr: FileAttr { ino: INodeNo(ROOT), ..attr },
            body: Body::Directory(Names::default()),
        }));
        let mut pending = vec![(tree.to_owned(), INodeNo(ROOT))];
        while let Some((directory, ino)) = pending.pop() {
            copy_directory(&mut nodes, &directory, ino, &mut pending)?;
        }
        Ok(Self(Mutex::new(nodes)))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(
        &self,
        ino: INodeNo,
        offset: u64,
        mut add: impl FnMut(FileAttr, u64, &OsStr) -> bool,
    ) -> Result<(), Errno> {
        let mut nodes = self.nodes();
        let mut at = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        loop {
            let places = &nodes.names(ino)?.places;
            let Some(place) = places.get(at) else { return Ok(()) };
            at += 1;
            let Some((name, child)) = place.clone() else { continue };
            let attr = nodes.get(INodeNo(child))?.attr;
            if add(attr, at as u64, &name) {
                return Ok(());
            }
        }
    }
}

fn copy_directory(
    nodes: &mut Nodes,
    directory: &Path,
    ino: INodeNo,
    pending: &mut Vec<(PathBuf, INodeNo)>,
) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let meta = fs::symlink_metadata(&path)?;
        let (kind, body) = match meta.file_type() {
            kind if kind.is_dir() => (FileType::Directory, Body::Directory(Names::default())),
            kind if kind.is_file() => (FileType::RegularFile, Body::File(fs::read(&path)?)),
            kind if kind.is_symlink() => {
                (FileType::Symlink, Body::Link(fs::read_link(&path)?.into_os_string()))
            }
            _ => continue,
        };
        let attr = FileAttr {
            size: meta.len(),
            blocks: meta.blocks(),
            mtime: meta.modified()?,
            ..new_attr(kind, meta.permissions().mode(), (meta.uid(), meta.gid()))
        };
        let Ok(added) = nodes.add(ino, &name, body, attr) else {
            bail!("two files are called {}", name.display())
        };
        if kind == FileType::Directory {
            pending.push((path, added.ino));
        }
    }
    Ok(())
}

/// Answers with an entry.
fn entry(reply: ReplyEntry, attr: Result<FileAttr, Errno>) {
    match attr {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for MemoryFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let _ = config.add_capabilities(CAPABILITIES & offered);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.nodes().child(parent, name);
        if matches!(found, Err(Errno::ENOENT)) {
            // A name that is not there, which the kernel may remember.
            return reply.entry(&TTL, &new_attr(FileType::RegularFile, 0, (0, 0)), Generation(0));
        }
        entry(reply, found);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let attr = self.nodes().get(ino).map(|node| node.attr);
        match attr {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut nodes = self.nodes();
        let node = match nodes.get(ino) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let attr = &mut node.attr;
        if let Some(mode) = mode {
            attr.perm = u16::try_from(mode & 0o7777).unwrap_or_default();
        }
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.ctime = SystemTime::now();
        attr.mtime = match mtime {
            Some(TimeOrNow::SpecificTime(time)) => time,
            Some(TimeOrNow::Now) => attr.ctime,
            None => attr.mtime,
        };
        if let (Some(size), Body::File(bytes)) = (size, &mut node.body) {
            bytes.resize(usize::try_from(size).unwrap_or_default(), 0);
            attr.size = size;
        }
        reply.attr(&TTL, attr);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.nodes().get(ino) {
            Ok(Node { body: Body::Link(target), .. }) => reply.data(target.as_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn mkdir(&self, from: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let attr = new_attr(FileType::Directory, mode & !umask, (from.uid(), from.gid()));
        entry(reply, self.nodes().add(parent, name, Body::Directory(Names::default()), attr));
    }

    fn symlink(&self, from: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let attr = new_attr(FileType::Symlink, 0o777, (from.uid(), from.gid()));
        entry(reply, self.nodes().add(parent, name, Body::Link(target.into()), attr));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.nodes().remove(parent, name));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.nodes().remove(parent, name));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        done(reply, self.nodes().rename((parent, name), (new_parent, new_name)));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut nodes = self.nodes();
        let Ok(Node { body: Body::File(bytes), .. }) = nodes.get(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        reply.data(&bytes[from..bytes.len().min(from + size as usize)]);
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut nodes = self.nodes();
        let Ok(Node { body: Body::File(bytes), attr }) = nodes.get(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let from = usize::try_from(offset).unwrap_or_default();
        let end = from + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[from..end].copy_from_slice(data);
        attr.size = bytes.len() as u64;
        attr.blocks = attr.size.div_ceil(512);
        attr.mtime = SystemTime::now();
        attr.ctime = attr.mtime;
        reply.written(u32::try_from(data.len()).unwrap_or_default());
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(ino, offset, |attr, next, name| reply.add(attr.ino, next, attr.kind, name));
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let add =
            |attr: FileAttr, next, name: &OsStr| reply.add(attr.ino, next, name, &TTL, &attr, Generation(0));
        match self.list(ino, offset, add) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 29, 1 << 29, 1 << 30, 1 << 29, 4096, 255, 4096);
    }

    fn create(
        &self,
        from: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let attr = new_attr(FileType::RegularFile, mode & !umask, (from.uid(), from.gid()));
        let added = self.nodes().add(parent, name, Body::File(Vec::new()), attr);
        match added {
            Ok(attr) => {
                reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(errno) => reply.error(errno),
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [tree, mountpoint] = &arguments[..] else { bail!("usage: memory-fs TREE MOUNTPOINT") };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("memory-fs".to_owned()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    fuser::mount(MemoryFs::copy_of(Path::new(tree))?, mountpoint, &config)?;
    Ok(())
}
