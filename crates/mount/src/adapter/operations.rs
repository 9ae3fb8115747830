//! The operations of the protocol.
//!
//! Every operation of the protocol is answered on purpose. To the kernel `ENOSYS` means "not now and never on
//! this connection", so it is used only where that is the wish:
//!
//! | operation | answer | why |
//! |---|---|---|
//! | lookup … create | the view | |
//! | open, create, lseek | `ENOSYS` in the profile `small-files` | the kernel then opens files by itself, makes them by mknod, and asks for them by number; where their data is it does not ask, which nobody who does not know what is mapped could tell |
//! | flush | `ENOSYS` | nothing is held back per descriptor that could fail at close(2); the kernel still writes out what it holds of the file, and asks no more |
//! | opendir, releasedir | `ENOSYS` | the kernel then opens directories by itself, keeps their listings, and asks for them by number. One that cannot (before Linux 5.1) is given handles |
//! | `copy_file_range` | `ENOSYS` | the kernel then copies through its page cache, without asking first each time |
//! | poll | `ENOSYS` | the kernel then calls every file ready, as regular files are |
//! | access | `ENOSYS` | never asked: `default_permissions` lets the kernel decide |
//! | bmap, getlk, setlk | `EOPNOTSUPP` | never asked: no block device, locks are the kernel's own |
//! | ioctl | `ENOTTY` | no file here knows any |
//! | statx, tmpfile, syncfs and what fuser does not know | `ENOSYS` by fuser | the kernel falls back to getattr, answers `EOPNOTSUPP` for `O_TMPFILE`, and never asks again |
//! | interrupt | `ENOSYS` by fuser | the kernel then lets a caller wait for its answer; no operation waits for anything but the disk |

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, TimeOrNow, WriteFlags,
};
use selvedge_view::{Handle, Opened, SeekTo, SetAttr, SetId, ViewError, crash};

use super::Adapter;
use crate::arguments::{acl_kind, allocate_mode, rename_mode, seek_to, set_id, xattr_mode};
use crate::attr::{absent, file_type, kind_of_mode, set_time, timestamp};
use crate::caller;
use crate::op;
use crate::reply::{GENERATION, accept_ok, accept_xattr};
use crate::sys;
use crate::tuning::Profile;

thread_local! {
    /// What this thread has read, on its way to the kernel: as long as the largest request so far, a MiB at the most. Memory that is new
    /// for each request costs a page fault for each page.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is asked of the kernel beyond what fuser asks by itself (asynchronous reads, large writes).
///
/// Left out on purpose: `ATOMIC_O_TRUNC` (a truncation must be an operation of its own), `POSIX_LOCKS` and
/// `FLOCK_LOCKS` (the kernel's locks outlive a worker), `ASYNC_DIO` (overlapping writes in flight at once could not be
/// sent again in any order). `WRITEBACK_CACHE` is asked for only where it is set: without it acknowledged means kept.
///
/// `DO_READDIRPLUS`: whoever lists a directory mostly asks for each entry's attributes next, which then come in the
/// same reply; `READDIRPLUS_AUTO` leaves that to what the kernel sees them do.
///
/// `POSIX_ACL` has the kernel heed access control lists; with it belongs `DONT_MASK`, because the umask does not
/// count where a directory hands a list down, which only we know. `HANDLE_KILLPRIV_V2` leaves clearing set-id bits
/// to us, and spares a look for `security.capability` before each write; what the kernel does by itself misses a
/// set-group bit without the right to execute.
const CAPABILITIES: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2);

impl Filesystem for Adapter {
    fn init(&mut self, _request: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        crash::point(op::INIT.enter);
        let mut wanted = CAPABILITIES;
        if self.tuning.direct_io {
            // Without it, shared mappings of files that are opened past the page cache are refused.
            wanted |= InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        }
        if self.tuning.writeback {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        let offered = config.capabilities() & wanted;
        let refused = config.add_capabilities(offered).err().unwrap_or(InitFlags::empty());
        // Within the bounds of the protocol: the options were checked when they were read.
        let max_write = config.set_max_write(u32::try_from(self.tuning.max_write).unwrap_or(u32::MAX));
        let _ = config.set_max_background(self.tuning.background());
        self.no_opendir = config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        self.no_open = self.tuning.profile == Profile::SmallFiles
            && config.capabilities().contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        if let Some(depth) = self.stack_depth
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && let Err(most) = config.set_max_stack_depth(depth)
        {
            tracing::warn!(depth, most, "files cannot be passed through so deep a stack");
        }
        tracing::debug!(?offered, ?refused, ?max_write, "connection set up");
        crash::point(op::INIT.reply);
        Ok(())
    }

    fn lookup(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve(
            from,
            op::LOOKUP,
            reply,
            |view, _| match view.lookup(self.node(parent), name.as_bytes()) {
                Ok(attr) => Ok(Some(attr)),
                Err(ViewError::NotFound) => Ok(None),
                Err(error) => Err(error),
            },
            |reply, found| match found {
                Some(attr) => self.accept_entry(reply, &attr),
                None => reply.entry(&self.tuning.negative_ttl(), &absent(), GENERATION),
            },
        );
    }

    fn forget(&self, _request: &fuser::Request, ino: INodeNo, _nlookup: u64) {
        let _in_flight = self.load.enter(op::FORGET);
        crash::point(op::FORGET.enter);
        self.view.forget(self.node(ino));
        crash::point(op::FORGET.reply);
    }

    fn getattr(&self, from: &fuser::Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(
            from,
            op::GETATTR,
            reply,
            |view, _| view.getattr(self.node(ino)),
            |reply, attr| {
                self.accept_attr(reply, &attr);
            },
        );
    }

    fn setattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        // Sent only where the kernel holds writes back, and keeps the times of files itself.
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.serve(
            from,
            op::SETATTR,
            reply,
            |view, _| {
                let ino = self.node(ino);
                let asked = SetAttr {
                    mode: mode.map(|mode| mode & 0o7777),
                    uid,
                    gid,
                    size,
                    atime: atime.map(set_time),
                    mtime: mtime.map(set_time),
                    ctime: ctime.map(timestamp),
                    set_id: SetId::Keep,
                };
                let set = SetAttr {
                    set_id: set_id(view.mode_and_owner(ino)?, &asked, from, self.no_open),
                    ..asked
                };
                view.setattr(ino, &set)
            },
            |reply, attr| self.accept_attr(reply, &attr),
        );
    }

    fn readlink(&self, from: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        self.serve(
            from,
            op::READLINK,
            reply,
            |view, _| view.readlink(self.node(ino)),
            |reply, target| reply.data(&target),
        );
    }

    fn mknod(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let request = self.making(from, umask);
        self.serve(
            from,
            op::MKNOD,
            reply,
            |view, _| {
                let kind = kind_of_mode(mode).ok_or(ViewError::Invalid("type of node"))?;
                view.mknod(&request, self.node(parent), name.as_bytes(), kind, mode & 0o7777, rdev.into())
            },
            |reply, attr| self.accept_entry(reply, &attr),
        );
    }

    fn mkdir(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let request = self.making(from, umask);
        self.serve(
            from,
            op::MKDIR,
            reply,
            |view, _| view.mkdir(&request, self.node(parent), name.as_bytes(), mode & 0o7777),
            |reply, attr| self.accept_entry(reply, &attr),
        );
    }

    fn unlink(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = self.request(from);
        self.serve(
            from,
            op::UNLINK,
            reply,
            |view, _| view.unlink(&request, self.node(parent), name.as_bytes()),
            accept_ok,
        );
    }

    fn rmdir(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = self.request(from);
        self.serve(
            from,
            op::RMDIR,
            reply,
            |view, _| view.rmdir(&request, self.node(parent), name.as_bytes()),
            accept_ok,
        );
    }

    fn symlink(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let request = self.request(from);
        let target = target.as_os_str().as_bytes();
        self.serve(
            from,
            op::SYMLINK,
            reply,
            |view, _| view.symlink(&request, self.node(parent), link_name.as_bytes(), target),
            |reply, attr| self.accept_entry(reply, &attr),
        );
    }

    fn rename(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let request = self.request(from);
        let (parent, newparent) = (self.node(parent), self.node(newparent));
        self.serve(
            from,
            op::RENAME,
            reply,
            |view, _| {
                let mode = rename_mode(flags)?;
                view.rename(&request, parent, name.as_bytes(), newparent, newname.as_bytes(), mode)
            },
            accept_ok,
        );
    }

    fn link(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let request = self.request(from);
        self.serve(
            from,
            op::LINK,
            reply,
            |view, _| view.link(&request, self.node(ino), self.node(newparent), newname.as_bytes()),
            |reply, attr| self.accept_entry(reply, &attr),
        );
    }

    fn open(&self, from: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.no_open {
            return self.decline(from, op::OPEN, reply);
        }
        let request = self.request(from);
        self.serve(
            from,
            op::OPEN,
            reply,
            |view, _| self.backings.open(view, &request, self.node(ino), flags.0),
            |reply, opened| {
                let handle = FileHandle(opened.handle.0);
                match opened.backing {
                    Some(id) => sys::reply_opened(reply, handle, id),
                    None => reply.opened(handle, self.open_flags()),
                }
            },
        );
    }

    fn read(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(
            from,
            op::READ,
            reply,
            |view, _| {
                let (via, size) = (self.via(ino, fh), size as usize);
                READ.with_borrow_mut(|buffer| {
                    if buffer.len() < size {
                        buffer.resize(size, 0);
                    }
                    view.read_into(via, offset, &mut buffer[..size])
                })
            },
            |reply, filled| READ.with_borrow(|buffer| reply.data(&buffer[..filled])),
        );
    }

    fn write(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.tuning.trace_writes {
            let (node, bytes, pid) = (ino.0, data.len(), from.pid());
            tracing::info!(node, offset, bytes, pid, "write");
        }
        self.serve(
            from,
            op::WRITE,
            reply,
            |view, _| {
                let via = self.via(ino, fh);
                if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                    return view.write_back(via, offset, data);
                }
                view.write(via, offset, data)
            },
            ReplyWrite::written,
        );
    }

    fn flush(
        &self,
        from: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.decline(from, op::FLUSH, reply);
    }

    fn release(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(
            from,
            op::RELEASE,
            reply,
            |view, _| {
                self.backings.release(view, self.node(ino), Handle(fh.0));
                Ok(())
            },
            accept_ok,
        );
    }

    fn fsync(&self, from: &fuser::Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.serve(from, op::FSYNC, reply, |view, _| view.fsync(self.via(ino, fh), datasync), accept_ok);
    }

    fn opendir(&self, from: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            return self.decline(from, op::OPENDIR, reply);
        }
        let request = self.request(from);
        self.serve(
            from,
            op::OPENDIR,
            reply,
            |view, _| {
                let ino = self.node(ino);
                let handle = view.opendir(&request, ino)?;
                self.backings.remember(view, handle, Opened::Directory(ino))?;
                Ok(handle)
            },
            |reply, handle| reply.opened(FileHandle(handle.0), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.serve(
            from,
            op::READDIR,
            reply,
            |view, reply| {
                view.readdir(self.via(ino, fh), offset, &mut |entry| {
                    let name = OsStr::from_bytes(entry.name);
                    !reply.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), name)
                })
            },
            |reply, ()| reply.ok(),
        );
    }

    fn readdirplus(
        &self,
        request: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let ttl = self.both_ttl();
        self.serve(
            request,
            op::READDIRPLUS,
            reply,
            |view, reply| {
                view.readdir_plus(self.via(ino, fh), offset, &mut |entry, attr| {
                    let (ino, name) = (INodeNo(entry.ino.0), OsStr::from_bytes(entry.name));
                    let ttl = ttl.min(self.ttl_of(attr));
                    !reply.add(ino, entry.cookie, name, &ttl, &self.shown(attr), GENERATION)
                })
            },
            |reply, ()| reply.ok(),
        );
    }

    fn releasedir(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.serve(
            from,
            op::RELEASEDIR,
            reply,
            |view, _| {
                self.backings.release(view, self.node(ino), Handle(fh.0));
                Ok(())
            },
            accept_ok,
        );
    }

    fn fsyncdir(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(from, op::FSYNCDIR, reply, |view, _| view.fsyncdir(self.via(ino, fh)), accept_ok);
    }

    fn statfs(&self, from: &fuser::Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.serve(
            from,
            op::STATFS,
            reply,
            |view, _| view.statfs(),
            |reply, fs| {
                reply.statfs(
                    fs.blocks, fs.bfree, fs.bavail, fs.files, fs.ffree, fs.bsize, fs.namelen, fs.frsize,
                );
            },
        );
    }

    fn setxattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let pid = from.pid();
        let request = self.request(from);
        self.serve(
            from,
            op::SETXATTR,
            reply,
            |view, _| {
                let (ino, name) = (self.node(ino), name.as_bytes());
                let Some(kind) = acl_kind(name) else {
                    return view.setxattr(&request, ino, name, value, xattr_mode(flags)?);
                };
                let may_set_group = caller::may_set_group(pid, request.gid, view.mode_and_owner(ino)?.2);
                view.set_acl(&request, ino, kind, value, may_set_group)
            },
            accept_ok,
        );
    }

    fn getxattr(&self, from: &fuser::Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.serve(
            from,
            op::GETXATTR,
            reply,
            |view, _| view.getxattr(self.node(ino), name.as_bytes()),
            |reply, value| accept_xattr(reply, size, &value),
        );
    }

    fn listxattr(&self, from: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let pid = from.pid();
        self.serve(
            from,
            op::LISTXATTR,
            reply,
            |view, _| Ok(caller::visible(pid, view.listxattr(self.node(ino))?)),
            |reply, names| accept_xattr(reply, size, &names),
        );
    }

    fn removexattr(&self, from: &fuser::Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = self.request(from);
        self.serve(
            from,
            op::REMOVEXATTR,
            reply,
            |view, _| view.removexattr(&request, self.node(ino), name.as_bytes()),
            accept_ok,
        );
    }

    fn access(&self, _request: &fuser::Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        if self.no_open {
            // The kernel makes files by MKNOD then.
            return self.decline(from, op::CREATE, reply);
        }
        let request = self.making(from, umask);
        self.serve(
            from,
            op::CREATE,
            reply,
            |view, _| {
                let name = (self.node(parent), name.as_bytes());
                self.backings.create(view, &request, name, mode & 0o7777, flags)
            },
            |reply, (attr, opened)| {
                let (ttl, handle) = (self.both_ttl(), FileHandle(opened.handle.0));
                let attr = self.shown(&attr);
                match opened.backing {
                    // The file is empty, so whatever it takes to store anything through a mapping has the kernel forget
                    // these attributes first.
                    Some(id) => sys::reply_created(reply, (&ttl, &attr, GENERATION), handle, id),
                    None => reply.created(&ttl, &attr, GENERATION, handle, self.open_flags()),
                }
            },
        );
    }

    fn getlk(
        &self,
        _request: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn setlk(
        &self,
        _request: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn bmap(&self, _request: &fuser::Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn ioctl(
        &self,
        _request: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve(
            from,
            op::FALLOCATE,
            reply,
            |view, _| view.allocate(self.via(ino, fh), allocate_mode(mode)?, offset, length),
            accept_ok,
        );
    }

    fn lseek(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        if self.no_open {
            // Nobody knows which files are mapped. The kernel then takes all of a file for data, which is never wrong.
            return self.decline(from, op::LSEEK, reply);
        }
        self.serve(
            from,
            op::LSEEK,
            reply,
            |view, _| {
                let (offset, to) = seek_to(offset, whence)?;
                let node = self.node(ino);
                if view.has_writers(node) && !self.pages.write_back(&[ino]).is_empty() {
                    // What the kernel holds back may fill any hole: all of the file counts as data.
                    let size = view.getattr(node)?.size;
                    let found = if to == SeekTo::Data { offset } else { size };
                    return if offset < size { Ok(found) } else { Err(ViewError::NoData) };
                }
                view.seek(self.via(ino, fh), offset, to)
            },
            |reply, offset| reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
        );
    }

    fn copy_file_range(
        &self,
        _request: &fuser::Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
