//! Messages and descriptors over a real socket.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use selvedge_worker_proto::{
    Command, Envelope, Event, Failure, MAX_FDS, Receiver, RecvError, SendError, Sender, channel, encode,
};

#[expect(clippy::unnecessary_wraps, reason = "the form in which deadlines are given")]
fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

#[expect(clippy::unnecessary_wraps, reason = "the form in which deadlines are given")]
fn shortly() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(50))
}

type Supervisor = (Sender<Command>, Receiver<Event>);
type Worker = (Sender<Event>, Receiver<Command>);

fn pair() -> (Supervisor, Worker) {
    let (one, other) = UnixStream::pair().unwrap();
    (channel(one.into()), channel(other.into()))
}

/// A worker's end, and the bare socket of its peer.
fn bare() -> (UnixStream, Worker) {
    let (one, other) = UnixStream::pair().unwrap();
    (one, channel(other.into()))
}

const STATUS: Command = Command::Status {};

/// A frame that announces `announced` descriptors and brings `fds`.
fn send_raw(socket: &UnixStream, announced: u32, fds: &[BorrowedFd<'_>]) {
    let mut envelope = Envelope::new(5, STATUS);
    envelope.fds = announced;
    let frame = encode(&envelope.to_json().unwrap()).unwrap();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&frame)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, frame.len());
}

#[test]
fn messages_go_both_ways_in_order() {
    let ((commands, mut events), (replies, mut asked)) = pair();
    for id in 1..=100 {
        commands.send(Envelope::new(id, STATUS), &[], soon()).unwrap();
    }
    for id in 1..=100 {
        let received = asked.recv(soon()).unwrap();
        assert_eq!(received.envelope, Envelope::new(id, STATUS));
        replies.send(Envelope::new(id, Event::Stopping {}), &[], soon()).unwrap();
        assert_eq!(events.recv(soon()).unwrap().envelope.id, id);
    }
}

#[test]
fn senders_on_several_threads_never_mix_frames() {
    let ((commands, _), (_, mut asked)) = pair();
    thread::scope(|scope| {
        for _ in 0..4 {
            let commands = commands.clone();
            scope.spawn(move || {
                (0..200).for_each(|id| commands.send(Envelope::new(id, STATUS), &[], soon()).unwrap());
            });
        }
        (0..800).for_each(|_| assert_eq!(asked.recv(soon()).unwrap().envelope.msg, STATUS));
    });
}

#[test]
fn the_other_side_closing_is_told_apart_from_a_torn_frame() {
    let (socket, (_, mut commands)) = bare();
    drop(socket);
    assert!(matches!(commands.recv(soon()), Err(RecvError::Closed)));
    assert!(matches!(commands.recv(soon()), Err(RecvError::Closed)));
    for length in 1..10 {
        let (mut socket, (_, mut commands)) = bare();
        socket.write_all(&b"\x20\0\0\0{\"id\":1"[..length]).unwrap();
        drop(socket);
        assert!(matches!(commands.recv(soon()), Err(RecvError::Torn)), "{length} bytes");
    }
}

#[test]
fn a_peer_that_dies_with_unread_frames_has_closed() {
    let (socket, (events, mut commands)) = bare();
    events.send(Envelope::new(0, Event::Stopping {}), &[], soon()).unwrap();
    drop(socket);
    assert!(matches!(commands.recv(soon()), Err(RecvError::Closed)));
    assert!(matches!(events.send(Envelope::new(0, Event::Stopping {}), &[], soon()), Err(SendError::Closed)));
}

#[test]
fn receiving_has_a_deadline_and_keeps_what_came() {
    let (mut socket, (_, mut commands)) = bare();
    assert!(matches!(commands.recv(shortly()), Err(RecvError::TimedOut)));
    let frame = encode(&Envelope::new(3, STATUS).to_json().unwrap()).unwrap();
    for byte in &frame[..frame.len() - 1] {
        socket.write_all(&[*byte]).unwrap();
        assert!(matches!(commands.recv(Some(Instant::now())), Err(RecvError::TimedOut)));
    }
    socket.write_all(&frame[frame.len() - 1..]).unwrap();
    assert_eq!(commands.recv(soon()).unwrap().envelope.id, 3);
}

#[test]
fn sending_has_a_deadline_and_a_frame_cut_short_ends_the_channel() {
    let (mut socket, (events, commands)) = bare();
    let event = || {
        Envelope::new(
            0,
            Event::Failed(Failure::new(selvedge_worker_proto::ErrorKind::Failed, "x".repeat(8000))),
        )
    };
    let error = loop {
        if let Err(error) = events.send(event(), &[], shortly()) {
            break error;
        }
    };
    assert!(matches!(error, SendError::TimedOut), "{error}");
    // Room for part of a frame only, or none: either way nothing may follow a frame that is cut short.
    let mut bytes = [0; 512];
    socket.read_exact(&mut bytes).unwrap();
    let mut torn = false;
    for _ in 0..2 {
        torn |= matches!(events.send(event(), &[], shortly()), Err(SendError::Broken));
    }
    let mut rest = Vec::new();
    drop((events, commands));
    socket.read_to_end(&mut rest).unwrap();
    let mut stream = &[&bytes[..], &rest].concat()[..];
    let mut decoder = selvedge_worker_proto::Decoder::new();
    while decoder.feed(&mut stream).unwrap().is_some() {}
    assert!(decoder.at_boundary() || torn, "something followed a torn frame");
}

#[test]
fn what_is_no_message_is_skipped_and_the_next_is_received() {
    let (mut socket, (_, mut commands)) = bare();
    for body in [&b"hello"[..], b"{\"id\":1,\"msg\":{\"Dance\":{}}}", b"\xff"] {
        socket.write_all(&encode(body).unwrap()).unwrap();
        let error = commands.recv(soon()).unwrap_err();
        assert!(matches!(error, RecvError::Decode(_)) && error.is_recoverable(), "{error}");
    }
    send_raw(&socket, 0, &[]);
    assert_eq!(commands.recv(soon()).unwrap().envelope.msg, STATUS);
}

#[test]
fn an_oversize_frame_ends_the_conversation() {
    let (mut socket, (_, mut commands)) = bare();
    socket.write_all(&u32::MAX.to_le_bytes()).unwrap();
    let error = commands.recv(soon()).unwrap_err();
    assert!(matches!(error, RecvError::Frame(_)) && !error.is_recoverable(), "{error}");
}

#[test]
fn descriptors_arrive_with_their_frame_and_close_on_exec() {
    let ((commands, _), (_, mut asked)) = pair();
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(b"it is me").unwrap();
    commands.send(Envelope::new(1, STATUS), &[], soon()).unwrap();
    commands.send(Envelope::new(2, Command::Export { delete: false }), &[file.as_fd()], soon()).unwrap();
    commands.send(Envelope::new(3, STATUS), &[], soon()).unwrap();
    assert_eq!(asked.recv(soon()).unwrap().fds.len(), 0);
    let mut received = asked.recv(soon()).unwrap();
    assert_eq!((received.envelope.id, received.envelope.fds), (2, 1));
    assert_eq!(asked.recv(soon()).unwrap().fds.len(), 0);
    let fd = received.fds.remove(0);
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let mut text = String::new();
    std::io::Seek::rewind(&mut &file).unwrap();
    File::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "it is me");
}

#[test]
fn as_many_descriptors_as_allowed_arrive_and_more_are_not_sent() {
    let ((commands, _), (_, mut asked)) = pair();
    let file = tempfile::tempfile().unwrap();
    commands.send(Envelope::new(1, STATUS), &[file.as_fd(); MAX_FDS], soon()).unwrap();
    assert_eq!(asked.recv(soon()).unwrap().fds.len(), MAX_FDS);
    let error = commands.send(Envelope::new(2, STATUS), &[file.as_fd(); MAX_FDS + 1], soon()).unwrap_err();
    assert!(matches!(error, SendError::TooManyFds { .. }), "{error}");
}

/// Whether every copy of the write end but ours is closed: the reader then sees the end of the pipe when ours goes.
fn only_copy(mut reader: File, writer: OwnedFd) -> bool {
    drop(writer);
    rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).unwrap();
    matches!(reader.read(&mut [0]), Ok(0))
}

#[test]
fn another_number_than_announced_is_a_failed_frame_and_all_are_closed() {
    // Fewer, one too many (which fits the space of a buffer for one), and more than any frame may have.
    for (announced, sent) in [(1, 0), (2, 1), (1, 2), (0, 1), (0, 40), (40, 40), (u32::MAX, 1)] {
        let (socket, (_, mut commands)) = bare();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_raw(&socket, announced, &vec![writer.as_fd(); sent]);
        send_raw(&socket, 0, &[]);
        let error = commands.recv(soon()).unwrap_err();
        let RecvError::Fds { id: 5, announced: told, received, truncated } = error else { panic!("{error}") };
        assert_eq!((told, received, truncated), (announced, sent.min(received), sent > MAX_FDS));
        assert!(error.is_recoverable());
        assert!(commands.recv(soon()).unwrap().fds.is_empty(), "the next frame is whole");
        assert!(only_copy(reader.into(), writer), "announced {announced}, sent {sent}: one is still open");
    }
}

#[test]
fn descriptors_of_a_frame_that_never_ends_are_closed_with_the_channel() {
    let (socket, (events, mut commands)) = bare();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [writer.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&socket, &[IoSlice::new(b"\x20\0\0\0{")], &mut control, SendFlags::empty()).unwrap();
    drop(socket);
    assert!(matches!(commands.recv(soon()), Err(RecvError::Torn)));
    drop((events, commands));
    assert!(only_copy(reader.into(), writer));
}

#[test]
fn shutting_down_wakes_a_receiver_after_what_has_arrived() {
    let ((commands, mut events), (replies, _asked)) = pair();
    replies.send(Envelope::new(1, Event::Stopping {}), &[], soon()).unwrap();
    commands.shut_down();
    assert_eq!(events.recv(soon()).unwrap().envelope.id, 1);
    assert!(matches!(events.recv(soon()), Err(RecvError::Closed)));
}
