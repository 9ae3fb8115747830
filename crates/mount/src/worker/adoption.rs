//! A worker whose supervisor is gone: it goes on serving, and looks for another one.

use std::fmt::Debug;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use selvedge_worker_proto::MountReady;

use super::serve::Happening;

/// How long a mount is served without a supervisor. One comes back within a second if it can; a mount that nobody
/// answers for any longer could neither be listed nor unmounted, nor be replaced if its worker died.
const GRACE: Duration = Duration::from_secs(30);

/// The pause before the second attempt; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Who finds another supervisor for a worker. The worker's program knows how; this library does not.
pub trait Adopter: Debug + Send + Sync {
    /// Asks a supervisor, which may have to be started, to adopt this process. Everything it waits for has a deadline.
    fn adopt(&self, orphan: &Orphan<'_>) -> Result<(), NotAdopted>;
}

/// A worker as it asks to be adopted.
#[derive(Debug)]
pub struct Orphan<'a> {
    /// The mount it serves.
    pub ready: &'a MountReady,
    /// The highest number of a command that it has heard.
    pub last_id: u64,
    /// What the supervisor gets: its end of a new conversation, the reading end of the worker's standard error, and
    /// then the escrow.
    pub fds: Vec<BorrowedFd<'a>>,
}

/// Why there is no new supervisor.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    /// There is none yet.
    #[error("{0}")]
    Yet(String),
    /// There is one that does not want the mount.
    #[error("{0}")]
    Refused(String),
}

/// What ties a worker to its new supervisor.
#[derive(Debug)]
pub(crate) struct Adopted {
    /// The conversation.
    pub(crate) socket: OwnedFd,
    /// Where standard error leads from now on.
    pub(crate) log: PipeWriter,
}

/// What [`start`] needs.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) adopter: Arc<dyn Adopter>,
    pub(crate) ready: MountReady,
    pub(crate) last_id: u64,
    pub(crate) escrow: Arc<Vec<OwnedFd>>,
}

/// Looks for a supervisor in a thread of its own; `events` gets its outcome.
pub(crate) fn start(search: Search, events: Sender<Happening>) -> io::Result<()> {
    let look = move || {
        let happening = match search.run() {
            Ok(adopted) => Happening::Adopted(adopted),
            Err(why) => Happening::Abandoned(why),
        };
        // Nobody listens only when the process is ending.
        let _ = events.send(happening);
    };
    thread::Builder::new().name("adoption".into()).spawn(look).map(drop)
}

impl Search {
    fn run(&self) -> Result<Adopted, String> {
        let until = Instant::now() + GRACE;
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match self.attempt() {
                Ok(adopted) => return Ok(adopted),
                Err(NotAdopted::Refused(why)) => return Err(why),
                Err(NotAdopted::Yet(why)) => why,
            };
            if Instant::now() >= until {
                return Err(format!("there was none for {} s: {why}", GRACE.as_secs()));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn attempt(&self) -> Result<Adopted, NotAdopted> {
        let failed = |error: io::Error| NotAdopted::Yet(error.to_string());
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed(errno.into()))?;
        let (said, log) = io::pipe().map_err(failed)?;
        let mut fds = vec![theirs.as_fd(), said.as_fd()];
        fds.extend(self.escrow.iter().map(AsFd::as_fd));
        self.adopter.adopt(&Orphan { ready: &self.ready, last_id: self.last_id, fds })?;
        Ok(Adopted { socket: ours, log })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use selvedge_worker_proto::{Device, PROTOCOL_VERSION, Passthrough, WirePath};

    use super::*;

    /// Answers with what is left of a list, from its end.
    #[derive(Debug)]
    struct Listed(Mutex<Vec<Result<(), NotAdopted>>>);

    impl Adopter for Listed {
        fn adopt(&self, orphan: &Orphan<'_>) -> Result<(), NotAdopted> {
            assert_eq!((orphan.last_id, orphan.fds.len()), (7, 2));
            self.0.lock().unwrap().pop().unwrap()
        }
    }

    fn search(answers: Vec<Result<(), NotAdopted>>) -> Result<Adopted, String> {
        let ready = MountReady {
            protocol: PROTOCOL_VERSION,
            pid: std::process::id(),
            mount_path: WirePath("/m".into()),
            mount_id: 1,
            unique_mount_id: None,
            device: Device { major: 0, minor: 1 },
            passthrough: Passthrough { active: false, reason: None },
            writeback: false,
        };
        let adopter = Arc::new(Listed(Mutex::new(answers)));
        Search { adopter, ready, last_id: 7, escrow: Arc::default() }.run()
    }

    #[test]
    fn a_supervisor_that_is_not_there_yet_is_asked_again() {
        search(vec![Ok(()), Err(NotAdopted::Yet("busy".into())), Err(NotAdopted::Yet("down".into()))])
            .unwrap();
    }

    #[test]
    fn one_that_refuses_ends_the_search() {
        let answers = vec![Ok(()), Err(NotAdopted::Refused("no such mount".into()))];
        assert_eq!(search(answers).unwrap_err(), "no such mount");
    }
}
