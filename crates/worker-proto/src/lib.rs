//! What a supervisor and its FUSE worker say to each other.
//!
//! A *frame* is a little-endian `u32` length and that many bytes of JSON, at most [`MAX_BODY`], in both
//! directions. The JSON is an [`Envelope`]: a number that ties replies to commands, the number of descriptors
//! that ride along, and a [`Command`] (supervisor to worker) or an [`Event`] (worker to supervisor).
//! `docs/design/worker-protocol.md` tells the whole exchange.
//!
//! The layers can be used apart: [`frame`] is pure (bytes to frames and back), [`envelope`] turns frames into
//! messages, [`mod@channel`] moves both, with descriptors and deadlines, over a Unix stream socket.

pub mod advice;
pub mod channel;
pub mod command;
pub mod envelope;
pub mod error_kind;
pub mod event;
pub mod frame;
pub mod tree;
pub mod wire_path;

pub use advice::advice;
pub use channel::{Received, Receiver, RecvError, SendError, Sender, channel};
pub use command::Command;
pub use envelope::{DecodeError, Envelope, Message};
pub use error_kind::ErrorKind;
pub use event::{
    Device, Event, ExportDone, ExportNote, ExportNoted, ExportProgress, Failure, Holder, MountReady,
    Passthrough, SnapshotDone, SnapshotProgress, StatusOk, StopRefused,
};
pub use frame::{Decoder, FrameError, MAX_BODY, encode};
pub use tree::{TreeBody, TreeName, TreeNode, TreeReply, TreeRequest, name_replies};
pub use wire_path::WirePath;

/// The version of the protocol that this crate speaks, exchanged in `Hello` and its answer.
///
/// It changes when an old peer could misunderstand a new one. New fields do not change it, because unknown
/// fields are ignored; a new command or event does.
pub const PROTOCOL_VERSION: u32 = 3;

/// The last line that a worker writes to its standard error when it was asked by SIGUSR2 what its threads are at.
pub const END_OF_STACKS: &str = "end of stacks";

/// The most descriptors that one frame may carry, in either direction.
pub const MAX_FDS: usize = 16;
