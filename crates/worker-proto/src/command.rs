//! What a supervisor asks of its worker.

use serde::{Deserialize, Serialize};

use crate::WirePath;
use crate::envelope::Message;

/// A command. Every one is answered by at least one [`Event`](crate::Event) with the same envelope number.
///
/// Each variant has named fields, if need be none, so that a later version can add to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first frame on the socket: says which protocol the supervisor speaks and asks for the mount.
    /// Answered by `MountReady` or `MountError`.
    ///
    /// Descriptors that come along are the escrow that a worker which died had sent with its `MountReady`: the mount
    /// is there, and is to be taken over.
    Hello {
        /// The supervisor's [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
        protocol: u32,
    },
    /// Unmount, flush, exit. Answered by `Stopping`, after which the worker ends, or by `StopRefused`, after
    /// which everything goes on as before.
    Stop {
        /// Unmount even if processes hold the mount busy; they get ENOTCONN or ECONNABORTED afterwards.
        #[serde(default)]
        force: bool,
    },
    /// How are you? Answered by `StatusOk`.
    Status {},
    /// Make everything the thread says at this instant a frozen layer, so that another thread can share it. Answered
    /// by `Frozen` or `Failed`; the thread's reference has the layer then.
    Freeze {},
    /// Make a snapshot of the thread as it is at one instant, while it goes on. Answered by any number of
    /// `SnapshotProgress`, then `SnapshotDone` or `Failed`.
    Snapshot {
        /// What the snapshot is to say of itself: any bytes, written as paths are.
        message: WirePath,
    },
    /// Write the thread's tree, as it is now, into the directory whose descriptor comes with the frame (exactly
    /// one). Answered by any number of `ExportProgress` and `ExportNoted`, then `ExportDone` or `Failed`.
    Export {
        /// Make the directory equal to the tree, removing what is not in the tree; otherwise the directory has
        /// to be empty.
        #[serde(default)]
        delete: bool,
    },
    /// Answer questions about the thread's tree, as it is now, on the socket whose descriptor comes with the frame
    /// (exactly one), until it is closed: [`TreeRequest`](crate::TreeRequest) says which. Answered by `Browsing` or
    /// `Failed`.
    Browse {},
    /// Begin nothing new: a successor takes the mount over next, and this process is killed. Requests that come from
    /// now on are left to the successor. Answered by `HandedOver` when those that were begun are answered, or have
    /// taken too long.
    HandOver {},
}

impl Message for Command {
    const KINDS: &'static [&'static str] =
        &["Hello", "Stop", "Status", "Freeze", "Snapshot", "Export", "Browse", "HandOver"];
}
