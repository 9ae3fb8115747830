//! From what a dead worker left to a mount that is served again.
//!
//! Nothing here takes longer for a larger tree: the thread's layers are opened as ever, and what was open is looked
//! up when it is used. Callers wait meanwhile, and see nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use selvedge_store::ThreadLock;
use selvedge_view::{View, ViewOptions, crash};
use selvedge_worker_proto::{Envelope, ErrorKind, Event, Sender as Channel, StatusOk, WirePath};

use super::args::Args;
use super::following::wait_for_end;
use super::passing::Wish;
use super::refusal::Refusal;
use super::serve::Happening;
use super::setup::{self, Mounted};
use super::{PEER_DEADLINE, check_protocol, forgotten, trace};
use crate::adapter::Adapter;
use crate::load::Load;
use crate::session;
use crate::session_state::{Header, Resumed, SessionState};

/// Lets successors die at a named point: `[COUNT*]POINT[,POINT]...`, the first COUNT of them or all; of several points
/// each has its turn.
const CRASH_AT: &str = "SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT";

/// How many descriptors a worker leaves.
const LEFT: usize = 4;

/// Where the worker that has left `escrow` is there still, and about to be killed, its process comes last: its end is waited
/// for.
pub(crate) fn await_turn(escrow: &mut Vec<OwnedFd>, supervisor: BorrowedFd<'_>) -> Result<(), Refusal> {
    if escrow.len() <= LEFT {
        return Ok(());
    }
    match (escrow.pop(), escrow.first()) {
        (Some(before), Some(device)) => wait_for_end(&before, device.as_fd(), supervisor),
        _ => Ok(()),
    }
}

/// Takes the mount over that `escrow` belongs to; `events` learns of the session's end, `supervisor` of what the worker
/// before had no time to say.
///
/// When this fails, the mount stands as it did: another successor may do better.
pub(crate) fn resume(
    args: &Args,
    protocol: u32,
    escrow: Vec<OwnedFd>,
    supervisor: &Channel<Event>,
    events: Sender<Happening>,
) -> Result<Mounted, Refusal> {
    check_protocol(protocol)?;
    setup::check_own_files()?;
    let Ok([device, memory, lock, places]) = <[_; LEFT]>::try_from(escrow) else {
        return Err(Refusal::new(
            ErrorKind::Failed,
            "what the dead worker left is not complete",
            "unmount the thread and mount it again",
        ));
    };
    let Resumed { state, header, open, backings: left } = SessionState::resume(File::from(memory))?;
    state.serve_alone()?;
    let takeover = state.taken_over()?;
    let poison = state.poison()?;
    state.blame(takeover);
    // Before this one answers anything, and dies perhaps: nobody spends a budget by serving.
    tell_fruitless(supervisor, state.fruitless(takeover)?, &header, args.read_only);
    arm_crash_points(takeover)?;
    crash::point("resume.read");
    trace::reached("state");
    let name = setup::thread_name(args)?;
    let repository = setup::open_repository(args)?;
    let thread = repository.refs().thread(&name)?;
    let lock = ThreadLock::inherit(&repository, &thread.id, lock)?;
    trace::reached("repository");
    let options = ViewOptions {
        read_only: args.read_only,
        epoch: header.epoch,
        resumed: true,
        kernel_times: args.tuning.writeback,
        boot_id: setup::boot_id(),
        ..ViewOptions::default()
    };
    let view = View::open(repository, &name, lock, options)?;
    if let Err(error) = setup::remember_in(&view, &places) {
        tracing::warn!("where unchanged files stand is not known: {error}");
    }
    for (handle, opened) in open {
        view.inherit(handle, opened);
    }
    crash::point("resume.opened");
    trace::reached("view");
    let (view, load, state) = (Arc::new(view), Arc::new(Load::new()), Arc::new(state));
    let adapter =
        Adapter::new(Arc::clone(&view), Arc::clone(&load), Arc::clone(&state), poison, header.epoch)
            .tuned(&args.tuning)
            .passing(header.init.stack_depth());
    let (pages, backings) = (adapter.pages(), adapter.backings());
    let wish = Wish::of(&args.tuning, args.read_only);
    let joined = |connection: BorrowedFd<'_>| {
        pages.attach(connection)?;
        wish.go_on(&backings, &view, &header.init);
        backings.inherit(&view, left);
        Ok(())
    };
    let held = setup::held(&args.tuning, &header.init);
    let session = session::resume(adapter, &device, &header.init, &args.tuning, joined)?;
    crash::point("resume.joined");
    trace::reached("joined");
    let escrow = setup::escrow(device, &state, &view, places)?;
    setup::run(session, events)?;
    forgotten::start(&view, &pages, &backings);
    let identity = header.identity;
    let read_only = args.read_only;
    Ok(Mounted { view, identity, load, pages, backings, read_only, held, escrow, resumed: true })
}

fn tell_fruitless(supervisor: &Channel<Event>, fruitless: u64, header: &Header, read_only: bool) {
    let status = StatusOk {
        pid: std::process::id(),
        mount_path: WirePath(header.identity.path.clone()),
        requests: 0,
        operations: BTreeMap::new(),
        oldest_request_ms: None,
        stuck_ms: None,
        uptime_ms: 0,
        read_only,
        fruitless: Some(u32::try_from(fruitless).unwrap_or(u32::MAX)),
        passed_opens: 0,
    };
    let deadline = Some(Instant::now() + PEER_DEADLINE);
    if let Err(error) = supervisor.send(Envelope::new(0, Event::StatusOk(status)), &[], deadline) {
        tracing::warn!("the supervisor cannot be told which workers served: {error}");
    }
}

fn arm_crash_points(takeover: u64) -> Result<(), Refusal> {
    let Some(wanted) = std::env::var(CRASH_AT).ok().filter(|wanted| !wanted.is_empty()) else {
        return Ok(());
    };
    let (count, points) = match wanted.split_once('*') {
        None => (u64::MAX, &*wanted),
        Some((count, points)) => (count.parse().unwrap_or(0), points),
    };
    let mut turns = points.split(',').cycle();
    let turn = usize::try_from(takeover.saturating_sub(1)).unwrap_or(0) % points.split(',').count();
    match turns.nth(turn) {
        Some(point) if takeover <= count => setup::arm(CRASH_AT, point),
        _ => Ok(()),
    }
}
