//! FUSE requests to view operations and back: calls, replies, logs; no logic.

mod operations;

use std::sync::Arc;
use std::time::Duration;

use fuser::{Errno, FileAttr, FileHandle, FopenFlags, INodeNo, ReplyAttr, ReplyEntry};
use selvedge_store::Ino;
use selvedge_view::{Attr, Handle, Request, RequestKey, Via, View, ViewError, crash};

use crate::attr::file_attr;
use crate::backings::Backings;
use crate::errno::errno_of;
use crate::load::Load;
use crate::op::Op;
use crate::page_cache::PageCache;
use crate::poison::{self, Poison};
use crate::reply::{GENERATION, Refuse};
use crate::session_state::SessionState;
use crate::tuning::Tuning;

/// The root's node id, whatever its inode number is.
const ROOT: u64 = 1;

/// Bit of a request's number that marks it as sent before, to a worker that died.
const RESENT: u64 = 1 << 63;

/// Serves one view to one kernel connection.
#[derive(Debug)]
pub struct Adapter {
    view: Arc<View>,
    load: Arc<Load>,
    pages: Arc<PageCache>,
    backings: Arc<Backings>,
    poison: Poison,
    epoch: u64,
    tuning: Tuning,
    /// The kernel opens directories without asking.
    no_opendir: bool,
    /// It opens files without asking.
    no_open: bool,
    /// How deep file systems may be stacked below, if files are to be passed through.
    stack_depth: Option<u32>,
}

impl Adapter {
    /// An adapter for the connection `epoch`, which counts its requests in `load` and keeps in `session` what a
    /// successor has to know. What `poison` names is answered with EIO.
    pub fn new(
        view: Arc<View>,
        load: Arc<Load>,
        session: Arc<SessionState>,
        poison: Poison,
        epoch: u64,
    ) -> Self {
        let pages = Arc::<PageCache>::default();
        let backings = Arc::new(Backings::new(Arc::clone(&pages), session, Arc::clone(&load)));
        let tuning = Tuning::default();
        Self {
            view,
            load,
            pages,
            backings,
            poison,
            epoch,
            tuning,
            no_opendir: false,
            no_open: false,
            stack_depth: None,
        }
    }

    /// The same, with files passed through where the kernel agrees: file systems may be stacked so deep below.
    #[must_use]
    pub fn passing(self, stack_depth: Option<u32>) -> Self {
        Self { stack_depth, ..self }
    }

    /// The same, set as `tuning` says.
    #[must_use]
    pub const fn tuned(mut self, tuning: &Tuning) -> Self {
        self.tuning = *tuning;
        self
    }

    /// Attributes as they are shown.
    fn shown(&self, attr: &Attr) -> FileAttr {
        let attr = file_attr(attr);
        let (uid, gid) = (self.tuning.uid.unwrap_or(attr.uid), self.tuning.gid.unwrap_or(attr.gid));
        FileAttr { uid, gid, ..attr }
    }

    /// How long the kernel may believe a reply that tells names and attributes at once, where it has but one time.
    fn both_ttl(&self) -> Duration {
        self.tuning.entry_ttl().min(self.tuning.attr_ttl())
    }

    /// How long it may answer from these attributes: not at all while the file is written past us, when times change that
    /// nobody tells of.
    fn ttl_of(&self, attr: &Attr) -> Duration {
        if self.view.is_written_past(attr.ino) { Duration::ZERO } else { self.tuning.attr_ttl() }
    }

    /// Tells the kernel a name and its node.
    fn accept_entry(&self, reply: ReplyEntry, attr: &Attr) {
        let entry_ttl = self.tuning.entry_ttl();
        reply.entry_with_ttls(&self.ttl_of(attr), &entry_ttl, &self.shown(attr), GENERATION);
    }

    /// Tells it a node's attributes.
    fn accept_attr(&self, reply: ReplyAttr, attr: &Attr) {
        reply.attr(&self.ttl_of(attr), &self.shown(attr));
    }

    /// How files are opened. What the page cache holds stays right, since only this mount changes the file.
    const fn open_flags(&self) -> FopenFlags {
        if self.tuning.direct_io { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::FOPEN_KEEP_CACHE }
    }

    /// The kernel's page cache, to which the session's notifier is attached when there is one.
    pub(crate) fn pages(&self) -> Arc<PageCache> {
        Arc::clone(&self.pages)
    }

    /// The files that are passed through.
    pub(crate) fn backings(&self) -> Arc<Backings> {
        Arc::clone(&self.backings)
    }

    /// How a request comes to what is open. No handle is 0.
    fn via(&self, ino: INodeNo, fh: FileHandle) -> Via {
        if fh.0 == 0 { self.node(ino).into() } else { Handle(fh.0).into() }
    }

    fn node(&self, ino: INodeNo) -> Ino {
        if ino.0 == ROOT { self.view.root() } else { Ino(ino.0) }
    }

    fn request(&self, request: &fuser::Request) -> Request {
        self.making(request, 0)
    }

    /// A request that makes a node, by a caller with this mask.
    fn making(&self, request: &fuser::Request, umask: u32) -> Request {
        let unique = request.unique().0;
        Request {
            key: RequestKey { epoch: self.epoch, unique: unique & !RESENT },
            resent: unique & RESENT != 0,
            uid: request.uid(),
            gid: request.gid(),
            umask,
        }
    }

    /// Tells the kernel that it is to do without this operation from now on.
    fn decline(&self, from: &fuser::Request, op: &'static Op, reply: impl Refuse) {
        self.serve(from, op, reply, |_, _| Ok(()), |reply, ()| reply.refuse(Errno::ENOSYS));
    }

    /// One operation from request to reply: `work` asks the view, `accept` tells the kernel.
    fn serve<R: Refuse, T>(
        &self,
        from: &fuser::Request,
        op: &'static Op,
        mut reply: R,
        work: impl FnOnce(&View, &mut R) -> Result<T, ViewError>,
        accept: impl FnOnce(R, T),
    ) {
        self.load.admit();
        let _in_flight = self.load.enter(op);
        let unique = from.unique().0 & !RESENT;
        if self.poison.contains(unique) {
            tracing::error!(
                operation = op.name,
                pid = from.pid(),
                uid = from.uid(),
                "a request is refused that two workers died of"
            );
            return reply.refuse(Errno::EIO);
        }
        let _blamed = poison::at_work_on(unique, op.name);
        crash::serving();
        crash::point(op.enter);
        let outcome = work(&self.view, &mut reply);
        crash::point(op.reply);
        // Not afterwards: the caller's next request may be another thread's, and the end of this process, before this one
        // gets on.
        self.backings.session().answers();
        match outcome {
            Ok(value) => accept(reply, value),
            Err(error) => {
                let errno = errno_of(&error);
                log_refusal(op, &error, errno);
                reply.refuse(errno);
            }
        }
    }
}

/// An I/O error is a fault of ours or of the disk; anything else is the application's daily life.
fn log_refusal(op: &Op, error: &ViewError, errno: Errno) {
    if errno == Errno::EIO {
        tracing::error!(operation = op.name, "{error}");
    } else {
        tracing::trace!(operation = op.name, "{error}");
    }
}
