//! Having the service lend a thread's mount to a process.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use selvedge_store::{Repository, ThreadName};

use crate::context::Context;
use crate::control::client::AskError;
use crate::control::{Reply, Request};
use crate::error::Result;
use crate::plan::Plan;
use crate::record::Holder;
use crate::runtime::RuntimeDir;
use crate::service;
use crate::standing::live_mounts;

/// How long lending may take: a mount, or the end of the one before.
const LEND: Duration = Duration::from_secs(90);

/// A thread's mount, for as long as the borrower lives.
pub(crate) struct Lent {
    /// Where it is mounted.
    pub(crate) mountpoint: PathBuf,
    /// A detached copy, where one may be made.
    pub(crate) copy: Option<OwnedFd>,
}

/// The mount of the thread `name`, for the process of the pidfd `borrower`: the one that there is, else one that the
/// service makes in the runtime directory.
pub(crate) fn lend(
    context: &Context,
    runtime: &RuntimeDir,
    repository: Repository,
    name: &ThreadName,
    borrower: BorrowedFd<'_>,
) -> Result<Lent> {
    let thread = repository.refs().thread(name)?;
    let id = thread.id.to_string();
    let in_a_terminal = live_mounts(runtime, context.ui)?.into_iter().find(|(record, _)| {
        record.holder == Holder::Foreground
            && record.thread_id == id
            && record.repo.as_path() == repository.dir()
    });
    if let Some((record, _)) = in_a_terminal {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(CWD, record.mountpoint.as_path(), flags).ok();
        return Ok(Lent { mountpoint: record.mountpoint.into_path_buf(), copy });
    }
    let settings = context.settings_for(&repository, &[])?;
    let mut plan = Plan::new(&context.environment, &settings, &repository, &thread, PathBuf::new(), true)?;
    plan.mountpoint = runtime.make_runs()?.join(plan.request.as_str()).into();
    plan.lent = true;
    drop(repository);
    service::retrying(&context.environment, runtime, |client| {
        let request = Request::Lend { plan: Box::new(plan.clone()) };
        match client.ask_for_fds(request, &[borrower], Instant::now() + LEND)? {
            (Reply::Mounted { mount }, mut fds) => {
                Ok(Some(Lent { mountpoint: mount.mountpoint.into_path_buf(), copy: fds.pop() }))
            }
            (Reply::Ending {}, _) => Ok(None),
            (other, _) => Err(AskError::Failed(client.unexpected("a loan", &other))),
        }
    })
}
