//! What every worker of one mount is started from: the program, opened once, its arguments and environment.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{OnCrash, SpawnError, SpawnSpec, WorkerProgram};

/// What `ps` and messages call a worker that is started through a descriptor.
const NAME: &str = "selvedge-fuse-worker";

/// Environment variables that only the first worker of a mount gets: a crash that a test asked for happens once.
const FIRST_ONLY: [&str; 2] = ["SELVEDGE_FUSE_WORKER_CRASH_AT", "SELVEDGE_FUSE_WORKER_PANIC_ON_INIT"];

/// What every worker of one mount is started from.
#[derive(Debug)]
pub(crate) struct Launch {
    program: Program,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
}

#[derive(Debug)]
enum Program {
    Path(PathBuf),
    /// Opened before, so that a successor is the program that its predecessor was, whatever lies at the path by now.
    Opened {
        fd: OwnedFd,
        name: PathBuf,
    },
}

impl Program {
    /// Opens it, if it is to stay the same: `lasting` says whether there may be successors.
    fn open(program: &WorkerProgram, lasting: bool) -> Result<Self, SpawnError> {
        match program {
            WorkerProgram::Fd(fd) => {
                let fd = fd.try_clone();
                let fd = fd.map_err(|source| SpawnError::Io { what: "duplicate a descriptor", source })?;
                Ok(Self::Opened { fd, name: NAME.into() })
            }
            WorkerProgram::Path(path) if lasting && !is_script(path) => {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let fd = rustix::fs::open(path, flags, Mode::empty())
                    .map_err(|errno| refusal(path.clone(), errno.into()))?;
                Ok(Self::Opened { fd, name: path.clone() })
            }
            WorkerProgram::Path(path) => Ok(Self::Path(path.clone())),
        }
    }
}

/// Which of a mount's workers is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    First,
    Successor,
}

impl Launch {
    /// Opens the program if there may be successors.
    pub(crate) fn new(spec: &SpawnSpec) -> Result<Self, SpawnError> {
        let program = Program::open(&spec.worker, spec.on_crash == OnCrash::Recover)?;
        Ok(Self { program, args: spec.args.clone(), env: spec.env.clone() })
    }

    /// The same with another program.
    pub(crate) fn with(&self, program: &WorkerProgram) -> Result<Self, SpawnError> {
        let program = Program::open(program, true)?;
        Ok(Self { program, args: self.args.clone(), env: self.env.clone() })
    }

    /// The opened program.
    pub(crate) fn program(&self) -> Option<BorrowedFd<'_>> {
        match &self.program {
            Program::Path(_) => None,
            Program::Opened { fd, .. } => Some(fd.as_fd()),
        }
    }

    /// What to execute.
    pub(crate) fn executable(&self) -> PathBuf {
        match &self.program {
            Program::Path(path) => path.clone(),
            // The number names the same file in the child, until the program has been executed.
            Program::Opened { fd, .. } => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        }
    }

    /// What `ps` shows as the program.
    pub(crate) fn name(&self) -> &OsStr {
        let (Program::Path(name) | Program::Opened { name, .. }) = &self.program;
        name.as_os_str()
    }

    /// Why the program could not be started.
    pub(crate) fn refusal(&self, source: io::Error) -> SpawnError {
        refusal(Path::new(self.name()).to_owned(), source)
    }

    /// Variables that a worker of this generation does not inherit.
    pub(crate) fn withheld(generation: Generation) -> &'static [&'static str] {
        match generation {
            Generation::First => &[],
            Generation::Successor => &FIRST_ONLY,
        }
    }
}

/// Whether the kernel starts an interpreter for it, which could not open a descriptor that is closed by then.
fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!"
}

fn refusal(program: PathBuf, source: io::Error) -> SpawnError {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => SpawnError::Missing { program },
        Some(Errno::ACCESS | Errno::PERM | Errno::NOEXEC | Errno::ISDIR | Errno::TXTBSY) => {
            SpawnError::NotExecutable { program, source }
        }
        _ => SpawnError::Io { what: "start the worker", source },
    }
}
