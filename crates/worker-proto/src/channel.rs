//! Messages over a Unix stream socket, with descriptors and deadlines.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};

use crate::MAX_FDS;
use crate::envelope::{DecodeError, Envelope, Message};
use crate::frame::{self, Decoder, FrameError};

/// Splits one end of a connected `SOCK_STREAM` Unix socket into its two directions: `channel::<Command, Event>`
/// for a supervisor, `channel::<Event, Command>` for a worker. The socket closes when both halves are gone.
///
/// The socket's blocking mode does not matter and is not changed.
pub fn channel<Out: Message, In: Message>(socket: OwnedFd) -> (Sender<Out>, Receiver<In>) {
    let socket = Arc::new(socket);
    (
        Sender {
            shared: Arc::new(Outgoing { socket: Arc::clone(&socket), broken: Mutex::new(false) }),
            kind: PhantomData,
        },
        Receiver {
            socket,
            decoder: Decoder::new(),
            fds: VecDeque::new(),
            fds_lost: false,
            ended: false,
            kind: PhantomData,
        },
    )
}

/// The sending direction. Clones send through the same socket; frames never mix.
#[derive(Debug)]
pub struct Sender<M> {
    shared: Arc<Outgoing>,
    kind: PhantomData<fn(M)>,
}

#[derive(Debug)]
struct Outgoing {
    socket: Arc<OwnedFd>,
    /// Set when a frame was left half sent: whatever followed would be read as the rest of it.
    broken: Mutex<bool>,
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), kind: PhantomData }
    }
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other side has closed the socket.
    #[error("the other side has closed the connection")]
    Closed,
    /// The other side did not make room before the deadline. If part of the frame had gone, the channel is
    /// [`Broken`](Self::Broken) from now on.
    #[error("the other side reads nothing")]
    TimedOut,
    /// An earlier frame was cut short.
    #[error("an earlier frame was cut short, so the connection cannot be used")]
    Broken,
    /// The message does not fit a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// More descriptors than [`MAX_FDS`].
    #[error("{count} descriptors in one frame, more than the {MAX_FDS} allowed")]
    TooManyFds {
        /// How many were given.
        count: usize,
    },
    /// The message has no JSON form.
    #[error("cannot encode the message: {0}")]
    Encode(#[from] serde_json::Error),
    /// `sendmsg` or `poll` failed.
    #[error("cannot send: {0}")]
    Io(#[from] Errno),
}

impl<M> AsFd for Sender<M> {
    /// The socket, which both directions share.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.socket.as_fd()
    }
}

impl<M: Message> Sender<M> {
    /// Sends `envelope` with duplicates of `fds`, whose number it writes into the frame, waiting until
    /// `deadline` (`None`: for ever) for room in the socket.
    pub fn send(
        &self,
        mut envelope: Envelope<M>,
        fds: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        if fds.len() > MAX_FDS {
            return Err(SendError::TooManyFds { count: fds.len() });
        }
        envelope.fds = u32::try_from(fds.len()).unwrap_or(u32::MAX);
        let frame = frame::encode(&envelope.to_json()?)?;
        let mut broken = self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if *broken {
            return Err(SendError::Broken);
        }
        let mut rest = &frame[..];
        self.write(&mut rest, fds, deadline).inspect_err(|_| *broken = rest.len() < frame.len())
    }

    /// Ends both directions at once, for every clone and for the [`Receiver`] of the same socket: the other side
    /// reads an end of file, as do we after what has already arrived.
    pub fn shut_down(&self) {
        // Only a peer that is already gone can make this fail, and then it is done.
        let _ = shutdown(&*self.shared.socket, Shutdown::Both);
    }

    fn write(
        &self,
        rest: &mut &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let socket = self.shared.socket.as_fd();
        // Descriptors go with the first byte; a second copy of them would be surplus.
        let mut fds = fds;
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(SendError::TooManyFds { count: fds.len() });
            }
            match sendmsg(
                socket,
                &[IoSlice::new(rest)],
                &mut control,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => {
                    *rest = &rest[sent..];
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !wait(socket, PollFlags::OUT, deadline)? {
                        return Err(SendError::TimedOut);
                    }
                }
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(SendError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct Receiver<M> {
    socket: Arc<OwnedFd>,
    decoder: Decoder,
    /// Descriptors of the frame that is being read.
    fds: VecDeque<OwnedFd>,
    /// Whether descriptors of that frame were dropped, by the kernel or because there were too many.
    fds_lost: bool,
    ended: bool,
    kind: PhantomData<fn() -> M>,
}

/// A message and what came with it.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub envelope: Envelope<M>,
    /// The descriptors, close-on-exec, as many as the envelope announces. Dropping them closes them.
    pub fds: Vec<OwnedFd>,
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The other side closed the socket between two frames.
    #[error("the other side has closed the connection")]
    Closed,
    /// The other side closed the socket within a frame.
    #[error("the other side closed the connection in the middle of a frame")]
    Torn,
    /// Nothing, or not all of a frame, came before the deadline. What came is kept; try again.
    #[error("nothing was received in time")]
    TimedOut,
    /// The stream has lost its boundaries.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A whole frame that is no message; the next one can be received.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A message without the descriptors it announces, or with others; those that came are closed. The next
    /// message can be received.
    #[error("frame announces {announced} descriptors, {}", came(*.received, *.truncated))]
    Fds {
        /// The envelope's number, for an answer.
        id: u64,
        /// How many the frame announces.
        announced: u32,
        /// How many came.
        received: usize,
        /// Whether the kernel dropped some (`MSG_CTRUNC`), as it does at this process's limit of descriptors,
        /// or more came than any frame may carry.
        truncated: bool,
    },
    /// `recvmsg` or `poll` failed.
    #[error("cannot receive: {0}")]
    Io(#[from] Errno),
}

fn came(received: usize, truncated: bool) -> String {
    let note = if truncated { ", others were dropped (is the limit of open files reached?)" } else { "" };
    format!("{received} came{note}")
}

impl RecvError {
    /// Whether the next message can still be received.
    pub const fn is_recoverable(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Decode(_) | Self::Fds { .. })
    }
}

impl<M> AsFd for Receiver<M> {
    /// Readable when [`Receiver::recv`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<M: Message> Receiver<M> {
    /// Receives one message, waiting until `deadline` (`None`: for ever).
    pub fn recv(&mut self, deadline: Option<Instant>) -> Result<Received<M>, RecvError> {
        let body = loop {
            if let Some(body) = self.read(deadline)? {
                break body;
            }
        };
        let fds: Vec<OwnedFd> = std::mem::take(&mut self.fds).into();
        let truncated = std::mem::take(&mut self.fds_lost);
        let envelope = Envelope::<M>::from_json(&body)?;
        if truncated || envelope.fds as usize != fds.len() {
            let (id, announced) = (envelope.id, envelope.fds);
            return Err(RecvError::Fds { id, announced, received: fds.len(), truncated });
        }
        Ok(Received { envelope, fds })
    }

    /// Reads once, no further than the present frame: so descriptors that come along are this frame's.
    fn read(&mut self, deadline: Option<Instant>) -> Result<Option<Vec<u8>>, RecvError> {
        let mut bytes = [0; 16 * 1024];
        let room = self.decoder.wanted().min(bytes.len());
        let count = loop {
            match self.receive(&mut bytes[..room]) {
                Ok(count) => break count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !wait(self.socket.as_fd(), PollFlags::IN, deadline)? {
                        return Err(RecvError::TimedOut);
                    }
                }
                // A peer that dies with frames of ours unread resets the connection instead of closing it.
                Err(Errno::CONNRESET) => break 0,
                Err(errno) => return Err(errno.into()),
            }
        };
        if count == 0 {
            self.fds.clear();
            let clean = self.ended || self.decoder.at_boundary();
            self.ended = true;
            return Err(if clean { RecvError::Closed } else { RecvError::Torn });
        }
        Ok(self.decoder.feed(&mut &bytes[..count])?)
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let result = recvmsg(&*self.socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
        self.fds_lost |= result.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.fds.len() > MAX_FDS {
            self.fds_lost = true;
            self.fds.truncate(MAX_FDS);
        }
        Ok(result.bytes)
    }
}

/// Waits until `fd` is ready or broken; `false` if the deadline came first.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // A time-out too large for the kernel's type is no time-out.
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], timeout.as_ref()) {
            Err(Errno::INTR) => {}
            other => return other.map(|ready| ready > 0),
        }
    }
}
