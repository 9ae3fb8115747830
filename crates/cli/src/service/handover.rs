//! What a service leaves for the program that it becomes: everything it holds, by the numbers of open descriptors.
//!
//! It lies in a memory file that can no longer be changed, whose number is in the environment beside the process's own: an
//! `execve` keeps both, a child has another. Only the descriptors that it lists are left open.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use selvedge_supervisor::{Held, Orphan};
use selvedge_worker_proto::MountReady;
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Result};
use crate::plan::Plan;
use crate::record::Record;
use crate::{hygiene, sys};

/// The version of what is left. A program goes on from no other one.
pub const VERSION: u32 = 1;

/// Where it is: `PID:NUMBER`.
const VARIABLE: &str = "SELVEDGE_SERVICE_HANDOVER";

/// The longest that is read, in bytes: some ten thousand mounts.
const MOST: u64 = 64 << 20;

/// The number of the memory file, until it is taken.
static NOTED: Mutex<Option<i32>> = Mutex::new(None);

/// What is left.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Whether it logs to its file, and is nobody's child.
    in_background: bool,
    lock: i32,
    listener: i32,
    /// Who is to hear how it went.
    asker: (i32, u64),
    mounts: Vec<MountLeft>,
}

/// A mount that is left.
#[derive(Debug, Serialize, Deserialize)]
struct MountLeft {
    record: Record,
    plan: Plan,
    worker: u32,
    pidfd: i32,
    socket: i32,
    log: Option<i32>,
    program: Option<i32>,
    escrow: Vec<i32>,
    ready: MountReady,
    last_id: u64,
    restarts: u32,
    last_cause: Option<String>,
    borrowers: Vec<i32>,
}

/// A mount that goes on.
#[derive(Debug)]
pub(in crate::service) struct Mount {
    pub(in crate::service) record: Record,
    pub(in crate::service) plan: Plan,
    pub(in crate::service) orphan: Orphan,
    /// The worker's program, if it was opened.
    pub(in crate::service) program: Option<OwnedFd>,
    /// The processes that it is lent to.
    pub(in crate::service) borrowers: Vec<OwnedFd>,
}

/// What the program that this process was before has left.
#[derive(Debug)]
pub(in crate::service) struct Inherited {
    pub(in crate::service) in_background: bool,
    pub(in crate::service) lock: OwnedFd,
    pub(in crate::service) listener: OwnedFd,
    /// Who is to hear how it went: the socket, and the request's number.
    pub(in crate::service) asker: (OwnedFd, u64),
    pub(in crate::service) mounts: Vec<Mount>,
}

/// What is to be left.
pub(in crate::service) struct Leaving<'a> {
    pub(in crate::service) in_background: bool,
    pub(in crate::service) lock: BorrowedFd<'a>,
    pub(in crate::service) listener: BorrowedFd<'a>,
    pub(in crate::service) asker: (BorrowedFd<'a>, u64),
    pub(in crate::service) mounts: &'a [Going],
}

/// A mount that is to go on.
pub(in crate::service) struct Going {
    pub(in crate::service) record: Record,
    pub(in crate::service) plan: Plan,
    pub(in crate::service) held: Held,
    pub(in crate::service) borrowers: Vec<OwnedFd>,
}

/// Notes whether this process was another program before, which has left something: then it must not be closed. To be
/// called first of all.
pub(crate) fn note() -> bool {
    let Some(left) = std::env::var_os(VARIABLE) else { return false };
    sys::remove_environment(VARIABLE.as_ref());
    let own = format!("{}:", std::process::id());
    let number = left.to_str().and_then(|text| text.strip_prefix(&*own)?.parse().ok());
    *NOTED.lock().unwrap_or_else(PoisonError::into_inner) = number;
    number.is_some()
}

/// Takes what the program before has left; `None` if there was none.
pub(in crate::service) fn take() -> Result<Option<Inherited>> {
    let number = NOTED.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(number) = number else { return Ok(None) };
    let nonsense = |what: &str| {
        CliError::failed(format!("what the service before has left {what}"))
            .hint("its workers start another one")
    };
    let memory = sys::left_open(number).ok_or_else(|| nonsense("is not there"))?;
    let seals = fcntl_get_seals(&memory).unwrap_or(SealFlags::empty());
    if !seals.contains(SealFlags::WRITE) {
        return Err(nonsense("is something else"));
    }
    let mut json = Vec::new();
    let read = File::from(memory).take(MOST).read_to_end(&mut json);
    read.map_err(|error| CliError::io("cannot read what the service before has left", &error))?;
    let document: Document =
        serde_json::from_slice(&json).map_err(|error| nonsense(&format!("cannot be read: {error}")))?;
    if document.version != VERSION {
        return Err(nonsense(&format!("has version {}, not {VERSION}", document.version)));
    }
    let mut taken = HashSet::from([number]);
    document.own(&mut taken).map(Some).ok_or_else(|| nonsense("lists a descriptor that is not there"))
}

impl Document {
    /// Owns what it lists, each number once.
    fn own(self, taken: &mut HashSet<i32>) -> Option<Inherited> {
        let mut own = |number: i32| if taken.insert(number) { sys::left_open(number) } else { None };
        let (lock, listener) = (own(self.lock)?, own(self.listener)?);
        let asker = (own(self.asker.0)?, self.asker.1);
        let mut mounts = Vec::new();
        for left in self.mounts {
            let mut all = |numbers: Vec<i32>| numbers.into_iter().map(&mut own).collect::<Option<Vec<_>>>();
            let (escrow, borrowers) = (all(left.escrow)?, all(left.borrowers)?);
            let mut some = |number: Option<i32>| match number {
                None => Some(None),
                Some(number) => own(number).map(Some),
            };
            let (log, program) = (some(left.log)?, some(left.program)?);
            let orphan = Orphan {
                pid: left.worker,
                pidfd: own(left.pidfd)?,
                socket: own(left.socket)?,
                log,
                escrow,
                ready: left.ready,
                last_id: left.last_id,
                restarts: left.restarts,
                last_cause: left.last_cause,
            };
            mounts.push(Mount { record: left.record, plan: left.plan, orphan, program, borrowers });
        }
        Some(Inherited { in_background: self.in_background, lock, listener, asker, mounts })
    }
}

/// Becomes `program`, which finds all of this. Comes back with the reason why not, and then nothing has changed.
pub(in crate::service) fn become_program(program: &OwnedFd, leaving: &Leaving<'_>) -> CliError {
    let mut kept = Vec::new();
    let memory = match write(leaving, &mut kept) {
        Ok(memory) => memory,
        Err(error) => return CliError::io("cannot write down what the service holds", &error),
    };
    // The number names the same file until the program has been executed, and what it is called stays its own.
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0("selvedge").args(["service", "run"]);
    command.env(VARIABLE, OsString::from(format!("{}:{}", std::process::id(), memory.as_raw_fd())));
    let error = command.exec();
    // It was set for the program that was to come.
    hygiene::ignore(libc::SIGPIPE);
    CliError::io("cannot execute the new program", &error)
}

/// Writes everything into a memory file. `kept` gets the duplicates that stay open.
fn write(leaving: &Leaving<'_>, kept: &mut Vec<OwnedFd>) -> std::io::Result<OwnedFd> {
    let mut keep = |fd: BorrowedFd<'_>| -> std::io::Result<i32> {
        // Unlike every other descriptor here it is open in whatever is executed.
        let fd = rustix::io::dup(fd)?;
        let number = fd.as_raw_fd();
        kept.push(fd);
        Ok(number)
    };
    let mut mounts = Vec::new();
    for going in leaving.mounts {
        let orphan = &going.held.orphan;
        let mut all =
            |fds: &[OwnedFd]| fds.iter().map(|fd| keep(fd.as_fd())).collect::<std::io::Result<Vec<_>>>();
        let (escrow, borrowers) = (all(&orphan.escrow)?, all(&going.borrowers)?);
        mounts.push(MountLeft {
            record: going.record.clone(),
            plan: going.plan.clone(),
            worker: orphan.pid,
            pidfd: keep(orphan.pidfd.as_fd())?,
            socket: keep(orphan.socket.as_fd())?,
            log: orphan.log.as_ref().map(|log| keep(log.as_fd())).transpose()?,
            program: going.held.program.as_ref().map(|program| keep(program.as_fd())).transpose()?,
            escrow,
            ready: orphan.ready.clone(),
            last_id: orphan.last_id,
            restarts: orphan.restarts,
            last_cause: orphan.last_cause.clone(),
            borrowers,
        });
    }
    let document = Document {
        version: VERSION,
        in_background: leaving.in_background,
        lock: keep(leaving.lock)?,
        listener: keep(leaving.listener)?,
        asker: (keep(leaving.asker.0)?, leaving.asker.1),
        mounts,
    };
    let mut memory = File::from(memfd_create("selvedge-handover", MemfdFlags::ALLOW_SEALING)?);
    memory.write_all(&serde_json::to_vec(&document)?)?;
    rustix::fs::seek(&memory, rustix::fs::SeekFrom::Start(0))?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(memory.into())
}
