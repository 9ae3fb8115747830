//! What a worker tells its supervisor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ErrorKind;
use crate::WirePath;
use crate::envelope::Message;

/// An event: the answer to the command whose number its envelope bears, or, with number 0, news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Answer to `Hello`: the directory is usable. Descriptors that come along are escrow.
    MountReady(MountReady),
    /// Answer to `Hello`: there is no mount, and the worker exits.
    MountError(Failure),
    /// Answer to `Status`.
    StatusOk(StatusOk),
    /// Answer to `Stop`, or news when the worker ends for another reason (SIGTERM): the mount is gone or going;
    /// the worker flushes and exits.
    Stopping {},
    /// Answer to `Stop`: the mount is busy and stays.
    StopRefused(StopRefused),
    /// Answer to `Freeze`: the thread's reference has the frozen layer.
    Frozen {},
    /// How far a `Snapshot` has come; at least one a second while files are read.
    SnapshotProgress(SnapshotProgress),
    /// The last answer to a `Snapshot` that succeeded.
    SnapshotDone(SnapshotDone),
    /// How far an `Export` has come; at least one a second while it runs.
    ExportProgress(ExportProgress),
    /// Something of an `Export` is otherwise than the user may expect.
    ExportNoted(ExportNoted),
    /// The last answer to an `Export` that succeeded.
    ExportDone(ExportDone),
    /// Answer to `Browse`: questions are heard on the socket.
    Browsing {},
    /// Answer to `HandOver`: the worker can be killed.
    HandedOver {},
    /// The command failed; the worker goes on.
    Failed(Failure),
}

impl Message for Event {
    const KINDS: &'static [&'static str] = &[
        "MountReady",
        "MountError",
        "StatusOk",
        "Stopping",
        "StopRefused",
        "Frozen",
        "SnapshotProgress",
        "SnapshotDone",
        "ExportProgress",
        "ExportNoted",
        "ExportDone",
        "Browsing",
        "HandedOver",
        "Failed",
    ];
}

impl Event {
    /// `MountError` with a message cut so that it fits a frame.
    pub fn mount_error(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::MountError(Failure::new(kind, message))
    }

    /// `Failed` with a message cut so that it fits a frame.
    pub fn failed(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(kind, message))
    }
}

/// A mount that came up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountReady {
    /// The worker's [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
    pub protocol: u32,
    /// The worker's process id.
    pub pid: u32,
    /// The mounted directory, absolute and without symbolic links.
    pub mount_path: WirePath,
    /// The mount's number in `/proc/self/mountinfo`; free for reuse once the mount is gone.
    pub mount_id: u64,
    /// The mount's number that the kernel never uses again (`STATX_MNT_ID_UNIQUE`), where it has one.
    #[serde(default)]
    pub unique_mount_id: Option<u64>,
    /// The device number of the mounted file system; its minor names the FUSE connection.
    pub device: Device,
    /// Whether the kernel reads and writes files past the worker.
    pub passthrough: Passthrough,
    /// Whether the kernel holds back what programs write, until it is synced, closed, or the kernel sees fit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writeback: bool,
}

/// A device number, taken apart as `/proc/self/mountinfo` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Whether passthrough is in force, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passthrough {
    /// Whether it is in force.
    pub active: bool,
    /// Why not; `null` if it is.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What went wrong, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: ErrorKind,
    /// One sentence for people, without a trailing full stop.
    pub message: String,
    /// What to do next; empty where there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Failure {
    /// The longest message kept, in bytes: escaped as JSON it grows at most sixfold, and still fits a frame.
    pub const MAX_MESSAGE: usize = 8 * 1024;
    /// The longest hint kept, in bytes.
    pub const MAX_HINT: usize = 1024;

    /// A failure whose message is cut to [`Self::MAX_MESSAGE`].
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: cut(message.into(), Self::MAX_MESSAGE), hint: String::new() }
    }

    /// This failure with what to do next, cut to [`Self::MAX_HINT`].
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: cut(hint.into(), Self::MAX_HINT), ..self }
    }
}

/// A worker's answer to `Status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusOk {
    /// The worker's process id.
    pub pid: u32,
    /// The mounted directory.
    pub mount_path: WirePath,
    /// Requests answered since the worker started.
    pub requests: u64,
    /// How many of them asked for what, by the operation's name; what nobody asked for is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operations: BTreeMap<String, u64>,
    /// Age of the oldest request that is being worked on, in milliseconds; `null` if there is none.
    #[serde(default)]
    pub oldest_request_ms: Option<u64>,
    /// Age of the oldest request that gets nowhere, in milliseconds: its thread sleeps, where no thread that is at work on
    /// a request runs and none of the process waits for the disk; or it spins, and moves not a byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_ms: Option<u64>,
    /// Time since this worker was started, in milliseconds.
    pub uptime_ms: u64,
    /// Whether the mount refuses changes.
    pub read_only: bool,
    /// As a successor's first news: how many workers in a row before it have answered nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fruitless: Option<u32>,
    /// Files opened since the worker started that the kernel reads and writes itself.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub passed_opens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks about by reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Why a worker does not stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRefused {
    /// One sentence for people.
    pub message: String,
    /// Processes that hold the mount busy, as far as they could be seen.
    #[serde(default)]
    pub holders: Vec<Holder>,
    /// How many more there are than the frame had room for.
    #[serde(default)]
    pub more_holders: u64,
}

impl StopRefused {
    /// The most holders named in one event.
    pub const MAX_HOLDERS: usize = 128;

    /// A refusal that names as many of `holders` as fit a frame, and counts the rest.
    pub fn new(message: impl Into<String>, holders: impl IntoIterator<Item = Holder>) -> Self {
        let mut holders: Vec<Holder> = holders
            .into_iter()
            .map(|holder| Holder { name: cut(holder.name, Holder::MAX_NAME), ..holder })
            .collect();
        let more_holders = holders.len().saturating_sub(Self::MAX_HOLDERS) as u64;
        holders.truncate(Self::MAX_HOLDERS);
        Self { message: cut(message.into(), Self::MAX_MESSAGE), holders, more_holders }
    }

    const MAX_MESSAGE: usize = 1024;
}

/// A process that holds a mount busy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `/proc/PID/comm` has it, made printable.
    pub name: String,
}

impl Holder {
    /// The longest name kept, in bytes; the kernel's are at most 15, 63 when it is a kernel thread's.
    pub const MAX_NAME: usize = 64;
}

/// How far a snapshot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// Changed files read so far.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A snapshot that was made, or found to be there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDone {
    /// The thread's snapshot: 64 hexadecimal digits.
    pub snapshot: String,
    /// Names that came, went or stand for something else than in the snapshot before.
    pub changed: u64,
    /// Whether it was made; else nothing differed from the one there was.
    pub made: bool,
    /// Files that may have been stored to through mappings, and that the kernel did not write out in time: such stores
    /// are not in the snapshot.
    #[serde(default)]
    pub mapped: u64,
    /// Files that were written past the worker without a pause: the snapshot may have them as they were at no single
    /// instant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moving: Vec<WirePath>,
}

impl SnapshotDone {
    /// How many bytes the paths in [`moving`](Self::moving) may have together, to fit a frame.
    pub const MAX_MOVING: usize = 8 * 1024;
}

/// How far an export has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportProgress {
    /// Entries finished so far.
    pub files: u64,
    /// Bytes of file content finished so far.
    pub bytes: u64,
}

/// Something of an export that is otherwise than the user may expect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportNoted {
    /// Its path relative to the destination.
    pub path: WirePath,
    /// What there is to know.
    pub note: ExportNote,
}

/// In what something of an export is otherwise than the user may expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportNote {
    /// The export neither entered nor removed it.
    LeftAlone,
    /// It has another owner than in the tree.
    OwnerLost,
    /// It lacks extended attributes that it has in the tree.
    XattrsLost,
}

/// An export that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportDone {
    /// Entries of the tree.
    pub files: u64,
    /// Bytes of file content in the tree.
    pub bytes: u64,
}

/// The longest prefix of `text` that has at most `limit` bytes and ends between two characters.
fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, MAX_BODY};

    #[test]
    fn the_longest_failure_fits_a_frame() {
        let long = "\u{0}".repeat(MAX_BODY);
        let event = Event::Failed(Failure::new(ErrorKind::Failed, long.as_str()).hint(long));
        assert!(Envelope::new(u64::MAX, event).to_json().unwrap().len() <= MAX_BODY);
    }

    #[test]
    fn the_most_holders_fit_a_frame() {
        let holder = Holder { pid: u32::MAX, name: "\u{1}".repeat(999) };
        let refused = StopRefused::new("\u{1}".repeat(MAX_BODY), vec![holder; 1000]);
        assert_eq!(refused.more_holders, 872);
        let json = Envelope::new(u64::MAX, Event::StopRefused(refused)).to_json().unwrap();
        assert!(json.len() <= MAX_BODY, "{}", json.len());
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let failure = Failure::new(ErrorKind::Failed, "ü".repeat(Failure::MAX_MESSAGE));
        assert_eq!(failure.message.len(), Failure::MAX_MESSAGE);
        assert!(Failure::new(ErrorKind::Failed, format!("x{}", failure.message)).message.ends_with('ü'));
    }
}
