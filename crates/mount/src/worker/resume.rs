//! From what a dead worker left to a mount that is served again.
//!
//! Nothing here takes longer for a larger tree: the thread's layers are opened as ever, and what was open is looked
//! up when it is used. Callers wait meanwhile, and see nothing else.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use selvedge_store::ThreadLock;
use selvedge_view::{View, ViewOptions, crash};
use selvedge_worker_proto::ErrorKind;

use super::args::Args;
use super::check_protocol;
use super::refusal::Refusal;
use super::serve::Happening;
use super::setup::{self, Mounted};
use crate::adapter::Adapter;
use crate::load::Load;
use crate::session;
use crate::session_state::{Resumed, SessionState};

/// Lets successors die at a named point: `[COUNT*]POINT`, the first COUNT of them or all.
const CRASH_AT: &str = "SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT";

/// Takes the mount over that `escrow` belongs to; `events` learns of the session's end.
///
/// When this fails, the mount stands as it did: another successor may do better.
pub(crate) fn resume(
    args: &Args,
    protocol: u32,
    escrow: Vec<OwnedFd>,
    events: Sender<Happening>,
) -> Result<Mounted, Refusal> {
    check_protocol(protocol)?;
    setup::check_own_files()?;
    let Ok([device, memory, lock]) = <[_; 3]>::try_from(escrow) else {
        return Err(Refusal::new(
            ErrorKind::Failed,
            "what the dead worker left is not complete",
            "unmount the thread and mount it again",
        ));
    };
    let Resumed { state, header, open } = SessionState::resume(File::from(memory))?;
    let takeover = state.taken_over()?;
    let poison = state.poison()?;
    state.blame(takeover);
    arm_crash_points(takeover)?;
    crash::point("resume.read");
    let name = setup::thread_name(args)?;
    let repository = setup::open_repository(args)?;
    let thread = repository.refs().thread(&name)?;
    let lock = ThreadLock::inherit(&repository, &thread.id, lock)?;
    let options = ViewOptions {
        read_only: args.read_only,
        epoch: header.epoch,
        resumed: true,
        boot_id: setup::boot_id(),
        ..ViewOptions::default()
    };
    let view = View::open(repository, &name, lock, options)?;
    for (handle, opened) in open {
        view.inherit(handle, opened);
    }
    crash::point("resume.opened");
    let (view, load, state) = (Arc::new(view), Arc::new(Load::new()), Arc::new(state));
    let adapter =
        Adapter::new(Arc::clone(&view), Arc::clone(&load), Arc::clone(&state), poison, header.epoch)
            .tuned(&args.tuning);
    let pages = adapter.pages();
    let session = session::resume(adapter, &device, &header.init, &args.tuning)?;
    crash::point("resume.joined");
    let escrow = setup::escrow(device, &state, &view)?;
    setup::run(session, events)?;
    let identity = header.identity;
    Ok(Mounted { view, identity, load, pages, read_only: args.read_only, escrow, resumed: true })
}

fn arm_crash_points(takeover: u64) -> Result<(), Refusal> {
    let Some(wanted) = std::env::var(CRASH_AT).ok().filter(|wanted| !wanted.is_empty()) else {
        return Ok(());
    };
    let (count, point) = match wanted.split_once('*') {
        None => (u64::MAX, &*wanted),
        Some((count, point)) => (count.parse().unwrap_or(0), point),
    };
    if takeover <= count { setup::arm(CRASH_AT, point) } else { Ok(()) }
}
