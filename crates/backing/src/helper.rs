//! The program `selvedge-backing-helper`: registers files for a worker that may not.
//!
//! It takes no arguments, looks at no variable and opens nothing. All it knows comes through the socket that is its
//! standard input, a message at a time, and when that ends so does it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketType,
    recvmsg, send, sockopt,
};
use rustix::process::getuid;

use crate::error::Refusal;
use crate::message::{LENGTH, Reply, Request};
use crate::privilege::Privilege;
use crate::{check, sys};

/// Exit code after wrong usage, as the command line's.
const USAGE: u8 = 2;

/// What an error without a number is passed on as.
const EIO: i32 = Errno::IO.raw_os_error();

/// Runs the helper from start to end.
pub fn main() -> ExitCode {
    let stdin = io::stdin();
    if std::env::args_os().len() > 1 || !is_socket(stdin.as_fd()) {
        eprintln!("selvedge-backing-helper is started by selvedge-fuse-worker, and by nobody else");
        return ExitCode::from(USAGE);
    }
    match Privilege::keep_one().and_then(|privilege| serve(stdin.as_fd(), &privilege)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("selvedge-backing-helper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_socket(fd: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(fd).is_ok_and(|family| family == AddressFamily::UNIX)
        && sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::SEQPACKET)
}

/// Answers one message after the other until there is nobody to answer.
fn serve(socket: BorrowedFd<'_>, privilege: &Privilege) -> io::Result<()> {
    while let Some(asked) = receive(socket)? {
        let reply = answer(asked, privilege)?.encode();
        match rustix::io::retry_on_intr(|| send(socket, &reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
            Ok(_) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            // Whoever asks and never listens is left.
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// A request with the descriptors that came along, or why it is none.
type Asked = Result<(Request, Vec<OwnedFd>), Refusal>;

/// `None` at the end, which an empty message means, too.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Asked>> {
    // One byte and one descriptor more than any message has would show.
    let mut bytes = [0; LENGTH + 1];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let came = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let came = match came {
        Ok(came) => came,
        Err(Errno::CONNRESET) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    if came.bytes == 0 {
        return Ok(None);
    }
    let Some(request) = Request::decode(bytes.get(..came.bytes).unwrap_or_default()) else {
        return Ok(Some(Err(Refusal::Nonsense)));
    };
    if came.flags.contains(ReturnFlags::CTRUNC) || fds.len() != request.descriptors() {
        return Ok(Some(Err(Refusal::Descriptors)));
    }
    Ok(Some(Ok((request, fds))))
}

fn answer(asked: Asked, privilege: &Privilege) -> io::Result<Reply> {
    let (request, fds) = match asked {
        Ok(asked) => asked,
        Err(why) => return Ok(Reply::Refused(why)),
    };
    if let Err(why) = judge(&fds) {
        return Ok(Reply::Refused(why));
    }
    let outcome = match (request, &fds[..]) {
        (Request::Open, [connection, file]) => {
            privilege.used(|| sys::open_backing(connection.as_fd(), file.as_fd()))?
        }
        (Request::Close(id), [connection]) => {
            privilege.used(|| sys::close_backing(connection.as_fd(), id).map(|()| id))?
        }
        _ => return Ok(Reply::Refused(Refusal::Descriptors)),
    };
    Ok(match outcome {
        Ok(id) => Reply::Done(id),
        Err(error) => Reply::Failed(error.raw_os_error().unwrap_or(EIO).unsigned_abs()),
    })
}

/// The first descriptor is a connection, all others are files.
fn judge(fds: &[OwnedFd]) -> Result<(), Refusal> {
    let (connection, files) = fds.split_first().ok_or(Refusal::Descriptors)?;
    check::connection(connection.as_fd())?;
    files.iter().try_for_each(|file| check::file(file.as_fd(), getuid()))
}
