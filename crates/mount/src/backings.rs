//! Files that the kernel reads and writes itself, past this worker: under which number each is known to it, and until
//! when.
//!
//! All handles of a file need the same number, and whoever takes the connection over must know it. So it is noted for
//! a successor before the reply that uses it, and that it is being given up before it is. A number that was given out
//! and not noted is used by nobody; a successor finds it, because the kernel counts.

use foldhash::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags};
use selvedge_backing::{BackingError, Registrar};
use selvedge_store::Ino;
use selvedge_view::{
    Attr, Handle, HostFile, LastPassed, OpenFlags, Opened, OpenedFile, Request, View, ViewError, crash,
};

use crate::load::Load;
use crate::page_cache::PageCache;
use crate::session_state::{Backing, SessionState};

/// Files are kept apart by their numbers in so many parts, each with a lock: who opens or releases a file waits for
/// nobody but those who do the same with that file, and a few others.
const STRIPES: usize = 256;

/// A successor looks for so many numbers that a dead worker was given and had not noted: no more threads could have
/// been about to.
const UNNOTED: u32 = 64;

/// The kernel's numbers for the files of one stripe; `None` for those that mappings alone are left of.
type Stripe = HashMap<Ino, Option<u32>>;

/// The files of one connection that are passed through.
#[derive(Debug)]
pub(crate) struct Backings {
    pages: Arc<PageCache>,
    session: Arc<SessionState>,
    load: Arc<Load>,
    stripes: Vec<Mutex<Stripe>>,
    /// Who tells the kernel.
    registrar: OnceLock<Registrar>,
    /// Whether new files may be passed through; if not, why.
    force: OnceLock<Result<(), String>>,
    /// Whether the host's files may be opened for direct I/O.
    direct: AtomicBool,
    /// Whether anything was ever passed through on this connection.
    used: AtomicBool,
}

/// A file that was opened, as the kernel is to be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted {
    /// The handle.
    pub(crate) handle: Handle,
    /// Its number, if it is passed through.
    pub(crate) backing: Option<u32>,
}

impl Backings {
    pub(crate) fn new(pages: Arc<PageCache>, session: Arc<SessionState>, load: Arc<Load>) -> Self {
        Self {
            pages,
            session,
            load,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            registrar: OnceLock::new(),
            force: OnceLock::new(),
            direct: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    /// Passes files through from now on, if that can be done by `registrar`: a first one is tried. The connection is there.
    pub(crate) fn begin(&self, view: &View, registrar: Registrar) {
        let _ = self.registrar.set(registrar);
        let tried = self.try_out(view).map(drop);
        match &tried {
            Ok(()) => view.begin_passing(),
            Err(why) => tracing::info!("files are not passed through: {why}"),
        }
        let _ = self.force.set(tried);
        self.used.store(self.in_force(), Ordering::Release);
    }

    /// Passes none through, and says why.
    pub(crate) fn refrain(&self, why: &str) {
        let _ = self.force.set(Err(why.to_owned()));
    }

    /// Why files are not passed through, if they are not.
    pub(crate) fn reason(&self) -> Option<String> {
        match self.force.get() {
            Some(Ok(())) => self.registrar().trouble(),
            Some(Err(why)) => Some(why.clone()),
            None => Some("it has not been tried".to_owned()),
        }
    }

    fn in_force(&self) -> bool {
        matches!(self.force.get(), Some(Ok(())))
    }

    /// Registers a file and lets go of it again; tells the number it had.
    fn try_out(&self, view: &View) -> Result<u32, String> {
        let file = view.try_out().map_err(|error| error.to_string())?;
        let connection = self.connection().map_err(|error| error.to_string())?;
        let registrar = self.registrar();
        let id = registrar.open(connection, file.as_fd()).map_err(|error| match error.errno() {
            Some(libc::EPERM) => "it needs the capability CAP_SYS_ADMIN".to_owned(),
            Some(libc::ELOOP) => "the repository's disk is itself stacked on another".to_owned(),
            _ => error.to_string(),
        })?;
        registrar.close(connection, id).map_err(|error| error.to_string())?;
        self.direct.store(opens_direct(&file), Ordering::Release);
        Ok(id)
    }

    /// Goes on from what a dead worker left, before the kernel sends anything: what it was about to give up is given up,
    /// and so is what nobody uses.
    pub(crate) fn inherit(&self, view: &View, left: Vec<(Ino, Backing)>) {
        let mut known = Vec::new();
        for (ino, backing) in left {
            self.used.store(true, Ordering::Release);
            view.inherit_passed(ino);
            let mut stripe = self.stripe(ino);
            match backing {
                Backing::Open(id) | Backing::Closing(id) => {
                    known.push(id);
                    stripe.insert(ino, Some(id));
                }
                Backing::Left => {
                    stripe.insert(ino, None);
                }
            }
            if !view.has_passed_handles(ino) {
                self.give_up(view, &mut stripe, ino, None);
            }
        }
        // Numbers are given out in order, so those before the next one are the last that were.
        if let (true, Ok(next), Ok(connection)) = (self.in_force(), self.try_out(view), self.connection()) {
            for id in next.saturating_sub(UNNOTED).max(1)..next {
                if !known.contains(&id) && self.registrar().close(connection, id).is_ok() {
                    tracing::debug!(id, "let go of a file that a dead worker had registered");
                }
            }
        }
    }

    /// Opens a file, past this worker where that can be.
    pub(crate) fn open(
        &self,
        view: &View,
        request: &Request,
        ino: Ino,
        bits: i32,
    ) -> Result<Granted, ViewError> {
        let flags = OpenFlags::from_bits(bits);
        let mut stripe = self.stripe(ino);
        if !self.may_pass(view, ino, bits)? {
            return self.serve(view, ino, flags, view.open_file(request, ino, flags)?);
        }
        let opened = view.open_past(request, ino, flags)?;
        self.grant(view, &mut stripe, (ino, bits), &opened)
    }

    /// Makes and opens a file, past this worker where that can be.
    pub(crate) fn create(
        &self,
        view: &View,
        request: &Request,
        (parent, name): (Ino, &[u8]),
        mode: u32,
        bits: i32,
    ) -> Result<(Attr, Granted), ViewError> {
        let flags = OpenFlags::from_bits(bits);
        if !self.in_force() || (bits & libc::O_DIRECT != 0 && !self.direct.load(Ordering::Acquire)) {
            let (attr, handle) = view.create(request, parent, name, mode, flags)?;
            return Ok((attr, self.serve(view, attr.ino, flags, handle)?));
        }
        let enter = |ino| self.stripe(ino);
        let (attr, opened, mut stripe) = view.create_past(request, (parent, name), mode, flags, enter)?;
        let granted = self.grant(view, &mut stripe, (attr.ino, bits), &opened)?;
        Ok((attr, granted))
    }

    /// Whether the rule may choose to pass the file through.
    fn may_pass(&self, view: &View, ino: Ino, bits: i32) -> Result<bool, ViewError> {
        let is_passed = view.is_passed(ino);
        if bits & libc::O_DIRECT != 0 && !self.direct.load(Ordering::Acquire) {
            // The kernel would fail with EIO what the host's disk cannot do.
            let why =
                ViewError::Invalid("the host's disk has no direct I/O, and the file is open without it");
            return if is_passed { Err(why) } else { Ok(false) };
        }
        Ok(self.in_force() || is_passed)
    }

    fn serve(&self, view: &View, ino: Ino, flags: OpenFlags, handle: Handle) -> Result<Granted, ViewError> {
        self.remember(view, handle, Opened::File(ino, flags))?;
        Ok(Granted { handle, backing: None })
    }

    /// Has the kernel know the file by a number, the same for all its handles.
    fn grant(
        &self,
        view: &View,
        stripe: &mut Stripe,
        (ino, bits): (Ino, i32),
        opened: &OpenedFile,
    ) -> Result<Granted, ViewError> {
        let (handle, flags) = (opened.handle, OpenFlags::from_bits(bits));
        let Some(host) = &opened.passed else { return self.serve(view, ino, flags, handle) };
        let id = match stripe.get(&ino).copied().flatten() {
            Some(id) => id,
            None => match self.register(stripe, ino, host) {
                Ok(id) => id,
                Err(error) => {
                    tracing::warn!(ino = ino.0, "a file cannot be passed through: {error}");
                    view.serve_after_all(handle);
                    return self.serve(view, ino, flags, handle);
                }
            },
        };
        if let Err(error) = self.remember(view, handle, Opened::Passed(ino, flags)) {
            self.give_up(view, stripe, ino, None);
            return Err(error);
        }
        if flags.write && bits & (libc::O_DSYNC | libc::O_SYNC) != 0 {
            // Each write is durable by itself, and what says where it is has to be so, too.
            view.fsync(handle, false)?;
        }
        self.load.passed();
        if flags.write && !opened.is_new {
            // Stores through mappings change times, and nobody tells us.
            if let Err(error) = self.pages.forget_attributes(ino.0) {
                tracing::debug!(ino = ino.0, "the kernel keeps a file's attributes: {error}");
            }
        }
        Ok(Granted { handle, backing: Some(id) })
    }

    fn register(&self, stripe: &mut Stripe, ino: Ino, host: &HostFile) -> io::Result<u32> {
        let file = host.file().ok_or(io::ErrorKind::NotFound)?;
        let connection = self.connection()?;
        let id = self.registrar().open(connection, file).map_err(io::Error::other)?;
        crash::point("backing.registered");
        if let Err(error) = self.session.note_backing(ino, Backing::Open(id)) {
            let _ = self.registrar().close(connection, id);
            return Err(error);
        }
        crash::point("backing.noted");
        self.used.store(true, Ordering::Release);
        stripe.insert(ino, Some(id));
        Ok(id)
    }

    /// Takes note of a handle before the kernel learns of it.
    pub(crate) fn remember(&self, view: &View, handle: Handle, opened: Opened) -> Result<(), ViewError> {
        self.session.opened(handle, opened).map_err(|source| {
            let _ = view.release(handle);
            ViewError::Host { what: "take note of an open file", source }
        })
    }

    /// Releases a handle, in the view first: what dies in between releases it again.
    pub(crate) fn release(&self, view: &View, ino: Ino, handle: Handle) {
        let mut stripe = self.used.load(Ordering::Acquire).then(|| self.stripe(ino));
        let last = view.release(handle);
        crash::point("session.released");
        self.session.released(handle);
        if let (Some(stripe), Some(last)) = (&mut stripe, last) {
            self.give_up(view, stripe, ino, Some(last));
        }
    }

    /// Lets go of a file that has no handle past this worker any more. What mappings are left of is remembered.
    fn give_up(&self, view: &View, stripe: &mut Stripe, ino: Ino, last: Option<LastPassed>) {
        if view.has_passed_handles(ino) {
            return;
        }
        if let Some(Some(id)) = stripe.insert(ino, None) {
            self.note(ino, Backing::Closing(id));
            crash::point("backing.closing");
            let closed = self.connection().map_err(BackingError::Kernel);
            if let Err(error) = closed.and_then(|connection| self.registrar().close(connection, id)) {
                tracing::debug!(ino = ino.0, id, "a file was let go of already: {error}");
            }
            crash::point("backing.closed");
        }
        if view.let_go(ino, last) {
            stripe.remove(&ino);
            self.session.forget_backing(ino);
        } else {
            self.note(ino, Backing::Left);
        }
        self.look_after(view, stripe);
    }

    /// Forgets files that mappings alone were left of, if they are gone, too.
    fn look_after(&self, view: &View, stripe: &mut Stripe) {
        stripe.retain(|ino, id| {
            let gone = id.is_none() && view.let_go(*ino, None);
            if gone {
                self.session.forget_backing(*ino);
            }
            !gone
        });
    }

    fn note(&self, ino: Ino, backing: Backing) {
        if let Err(error) = self.session.note_backing(ino, backing) {
            tracing::warn!(ino = ino.0, "what becomes of a passed file cannot be noted: {error}");
        }
    }

    /// What a successor is to know.
    pub(crate) fn session(&self) -> &SessionState {
        &self.session
    }

    /// Numbers of an earlier worker are given up as this one would give up its own.
    fn registrar(&self) -> &Registrar {
        self.registrar.get_or_init(|| Registrar::Kernel)
    }

    fn connection(&self) -> io::Result<BorrowedFd<'_>> {
        self.pages.connection().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn stripe(&self, ino: Ino) -> MutexGuard<'_, Stripe> {
        let at = usize::try_from(ino.0 % STRIPES as u64).unwrap_or(0);
        // Each change of a stripe is one insertion or removal: it is whole at any point.
        self.stripes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file on the same disk can be opened for direct I/O.
fn opens_direct(file: &File) -> bool {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(Path::new(&path), flags, Mode::empty()).is_ok()
}
