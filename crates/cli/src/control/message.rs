//! What commands and the processes that hold mounts say to each other.
//!
//! The frames are those of the worker's protocol: length, JSON, descriptors. One process may hold any number of
//! mounts behind one socket, so each request names the mount it is about.

use selvedge_worker_proto::{
    ExportDone, ExportNoted, ExportProgress, Message, MountReady, Passthrough, SnapshotDone,
    SnapshotProgress, WirePath,
};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::plan::Plan;
use crate::process::ProcessId;
use crate::record::MountId;

/// The version of this protocol. It changes when an old peer could misunderstand a new one.
pub const VERSION: u32 = 3;

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first frame. Answered by `Hello`.
    Hello {
        /// The asker's [`VERSION`].
        protocol: u32,
    },
    /// Which mounts are there? Answered by one `Mounts` or more.
    List {},
    /// Make a mount (the service only). Answered by `Mounted`, `Ending` or `Failed`. Sent again, it is carried out
    /// once.
    Mount {
        /// What it shall be.
        plan: Box<Plan>,
    },
    /// Lend the thread's mount to the process whose pidfd comes along, and make it if there is none (the service
    /// only). One that is made for this goes when nobody has it any more. Answered by `Mounted`, with a descriptor of
    /// a copy of the mount where the service may make one; by `Ending` or `Failed`.
    Lend {
        /// What it shall be, if there is none.
        plan: Box<Plan>,
    },
    /// Make again what is wanted and lost (the service only). Answered by `Restored`, then one `Mounts` or more; or
    /// by `Ending`.
    Restore {},
    /// Unmount everything and end (the service only). Answered by `Ended` when every mount is gone, or `Failed`.
    End {},
    /// Become the program whose descriptor comes along, with everything that is mounted, and then replace the workers
    /// (the service only). Peers of any [`VERSION`] may ask it. Answered by `Upgraded`, from the new program, or by
    /// `Failed`, and then everything is as it was.
    Upgrade {},
    /// Answer for the mount of a worker whose service has died (the service only). The service's end of a new
    /// conversation comes along, the reading end of the worker's standard error, and the escrow. Answered by
    /// `Adopted`, `Ending` or `Failed`.
    Adopt {
        /// Who asks.
        adoption: Box<Adoption>,
    },
    /// Take a mount down. Answered by `Unmounted` when it is gone, or `Failed`.
    Unmount {
        /// Which.
        mount: MountId,
        /// Even if processes hold it busy.
        force: bool,
    },
    /// Make everything the mounted thread says at this instant a frozen layer. Answered by `Frozen` or `Failed`.
    Freeze {
        /// Which.
        mount: MountId,
    },
    /// Make a snapshot of the mounted thread. Answered by any number of `SnapshotProgress`, then `SnapshotDone` or
    /// `Failed`.
    Snapshot {
        /// Which.
        mount: MountId,
        /// What the snapshot says of itself: any bytes, written as paths are.
        message: WirePath,
    },
    /// Write the mounted thread, as it is now, to the directory whose descriptor comes along. Answered by any
    /// number of `ExportProgress` and `ExportNoted`, then `ExportDone` or `Failed`.
    Export {
        /// Which.
        mount: MountId,
        /// Make the directory equal to the tree, removing what is not in it.
        delete: bool,
    },
    /// Let the mount's worker answer questions about its tree on the socket whose descriptor comes along. Answered by
    /// `Browsing` or `Failed`.
    Browse {
        /// Which.
        mount: MountId,
    },
}

impl Message for Request {
    const KINDS: &'static [&'static str] = &[
        "Hello", "List", "Mount", "Lend", "Restore", "End", "Upgrade", "Adopt", "Unmount", "Freeze",
        "Snapshot", "Export", "Browse",
    ];
}

/// A worker that asks to be adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Its mount's name.
    pub mount: MountId,
    /// Itself.
    pub worker: ProcessId,
    /// What it serves.
    pub ready: MountReady,
    /// The highest number of a command that it has heard.
    pub last_id: u64,
}

/// What a process that holds mounts answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Answer to `Hello`.
    Hello {
        /// The answerer's [`VERSION`].
        protocol: u32,
        /// Its process id.
        pid: u32,
    },
    /// Answer to `List`.
    Mounts {
        /// One for each mount.
        mounts: Vec<MountDocument>,
        /// Whether there are more than one frame holds, which follow in the next.
        more: bool,
    },
    /// The mount is ready.
    Mounted {
        /// What it is.
        mount: Box<MountDocument>,
    },
    /// What was lost has been tried.
    Restored {
        /// Why some of it could not be mounted: as many as fit.
        failed: Vec<CliError>,
    },
    /// The service is ending and takes no more mounts; the next one will.
    Ending {},
    /// Nothing is mounted any more, and the service is about to be gone.
    Ended {},
    /// The service is of the program that it was given.
    Upgraded {
        /// How many workers are, too.
        replaced: usize,
        /// How many were left as they are, because their mounts were made without recovery.
        kept: usize,
        /// Why others are not: as many as fit.
        failed: Vec<CliError>,
    },
    /// The service answers for the mount from now on.
    Adopted {},
    /// The mount is gone, and the thread can be mounted again.
    Unmounted {},
    /// The mounted thread's reference has the frozen layer.
    Frozen {},
    /// How far a snapshot has come.
    SnapshotProgress(SnapshotProgress),
    /// The snapshot is there.
    SnapshotDone(SnapshotDone),
    /// How far an export has come.
    ExportProgress(ExportProgress),
    /// Something of an export that is otherwise than the user may expect.
    ExportNoted(ExportNoted),
    /// The export is complete.
    ExportDone(ExportDone),
    /// Questions are heard on the socket.
    Browsing {},
    /// It could not be done.
    Failed(CliError),
}

impl Message for Reply {
    const KINDS: &'static [&'static str] = &[
        "Hello",
        "Mounts",
        "Mounted",
        "Restored",
        "Ending",
        "Ended",
        "Upgraded",
        "Adopted",
        "Unmounted",
        "Frozen",
        "SnapshotProgress",
        "SnapshotDone",
        "ExportProgress",
        "ExportNoted",
        "ExportDone",
        "Browsing",
        "Failed",
    ];
}

/// A mount as `mount`, `list` and `unmount` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountDocument {
    /// Names the mount.
    pub id: MountId,
    /// The thread's name.
    pub thread: String,
    /// The mounted directory.
    pub mountpoint: WirePath,
    /// The worker's process id; `null` while there is none.
    pub worker_pid: Option<u32>,
    /// The process that answers for the mount; `null` if there is none.
    pub supervisor_pid: Option<u32>,
    /// Whether the kernel reads and writes files past the worker.
    pub passthrough: Passthrough,
    /// Whether the kernel holds back what programs write.
    #[serde(default)]
    pub writeback: bool,
    /// The directory that holds `.selvedge`.
    pub repo: WirePath,
    /// How it is.
    pub state: MountState,
    /// How many workers were replaced.
    pub restarts: u32,
    /// How the worker that was replaced last had ended; `null` if none was.
    #[serde(default)]
    pub last_crash: Option<String>,
    /// Time since the mount came up, in seconds.
    pub uptime_s: u64,
    /// Requests that its worker answers in a second, of late; `null` where it was not asked or does not answer.
    #[serde(default)]
    pub requests_per_s: Option<u64>,
    /// Memory that is its worker's alone, in bytes; `null` where nobody looked, or it does not show.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Files opened since its worker started; `null` where it was not asked or does not answer.
    #[serde(default)]
    pub opens: Option<u64>,
    /// How many of them the kernel reads and writes itself.
    #[serde(default)]
    pub passed_opens: Option<u64>,
}

/// How a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountState {
    /// Usable.
    Ready,
    /// Its worker died, and the next one does not serve yet.
    Recovering,
    /// Being taken down.
    Stopping,
    /// Gone from its directory, kept alive by another mount namespace or an open descriptor.
    Detached,
    /// Its worker, or whoever answers for it, does not answer.
    Stuck,
    /// Its worker is gone for good.
    Failed,
    /// It was there in this boot, and nobody wanted it to end.
    Lost,
}

impl MountState {
    /// The name in JSON and text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Recovering => "recovering",
            Self::Stopping => "stopping",
            Self::Detached => "detached",
            Self::Stuck => "stuck",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }
}
