//! A worker whose supervisor is gone.

use std::os::fd::OwnedFd;

use selvedge_worker_proto::MountReady;

/// A worker that serves a mount without a supervisor, and asks for one.
#[derive(Debug)]
pub struct Orphan {
    /// Its process id.
    pub pid: u32,
    /// Its process, which need not be a child of this one.
    pub pidfd: OwnedFd,
    /// The supervisor's end of a new conversation.
    pub socket: OwnedFd,
    /// Where it writes its log from now on: the reading end of a pipe, if it is read at all.
    pub log: Option<OwnedFd>,
    /// What a successor would need, as its first supervisor got it with `MountReady`; not looked into.
    pub escrow: Vec<OwnedFd>,
    /// The mount it serves.
    pub ready: MountReady,
    /// The highest number of a command that it has heard: new ones count on from there, so that a late answer to an old
    /// one is nobody's.
    pub last_id: u64,
    /// How many workers had been replaced.
    pub restarts: u32,
    /// How the worker before it ended, if there was one and it is known.
    pub last_cause: Option<String>,
}
