//! At this process's limit of descriptors. The limit counts for the whole process, so this is the only test of its
//! program.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_worker_proto::{Command, Envelope, Event, RecvError, channel};

#[test]
fn descriptors_dropped_at_the_limit_make_a_failed_frame() {
    let soon = || Some(Instant::now() + Duration::from_secs(20));
    let (one, other) = UnixStream::pair().unwrap();
    let (commands, _events) = channel::<Command, Event>(one.into());
    let (_replies, mut asked) = channel::<Event, Command>(other.into());
    let file = tempfile::tempfile().unwrap();
    let export = |id| {
        let fds = [file.as_fd(), file.as_fd()];
        commands.send(Envelope::new(id, Command::Export { delete: false }), &fds, soon()).unwrap();
    };
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limits }).unwrap();
    let mut hogs: Vec<OwnedFd> = Vec::new();
    while let Ok(hog) = file.as_fd().try_clone_to_owned() {
        hogs.push(hog);
    }
    // Room for none, then for one of two.
    for free in 0..2 {
        hogs.truncate(hogs.len() - free);
        export(1);
        let error = asked.recv(soon()).unwrap_err();
        let RecvError::Fds { announced: 2, received, truncated: true, .. } = error else { panic!("{error}") };
        assert_eq!(received, free);
        assert!(error.to_string().contains("limit of open files"), "{error}");
    }
    hogs.clear();
    export(2);
    assert_eq!(asked.recv(soon()).unwrap().fds.len(), 2);
    setrlimit(Resource::Nofile, limits).unwrap();
}
