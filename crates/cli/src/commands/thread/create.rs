//! `selvedge thread create`

use std::sync::Arc;

use selvedge_store::{LockError, RefsError, Repository, ThreadLock, ThreadName, ThreadRef};
use selvedge_view::{View, ViewOptions};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::mounted;
use crate::target::Target;

/// Make a thread from another, or from a snapshot
///
/// The new thread starts as the other one is at this moment, changes included, mounted or not, and shares everything
/// with it: no file is copied, so it takes milliseconds whatever the tree's size and the number of changes.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The new thread's name
    #[arg(value_name = "NAME")]
    name: String,
    /// The thread or snapshot to start from
    #[arg(long, value_name = "THREAD|SNAPSHOT", default_value = "main")]
    from: String,
}

#[derive(Debug, Serialize)]
struct Document {
    name: String,
    snapshot: String,
}

/// Runs the command.
pub fn run(context: &Context, args: &CreateArgs) -> Result<()> {
    let name: ThreadName = args.name.parse()?;
    let (repository, _objects) = context.held_repository()?;
    let from = Target::find(&repository, &args.from)?;
    let thread = make(context, repository, &name, &from)
        .map_err(|error| error.context(format!("cannot make thread {name}")))?;
    let document = Document { name: thread.name.to_string(), snapshot: thread.snapshot.to_string() };
    context.ui.result(&document, || format!("made thread {name} from {}\n", args.from))
}

fn make(context: &Context, repository: Repository, name: &ThreadName, from: &Target) -> Result<ThreadRef> {
    let repository = Arc::new(repository);
    let refs = repository.refs();
    match from {
        Target::Snapshot(id) => Ok(refs.create_thread(name, id, &[])?),
        Target::Thread(thread) => {
            if refs.thread(name).is_ok() {
                return Err(RefsError::Exists { name: name.clone() }.into());
            }
            if thread.upper.is_some() {
                freeze(context, &repository, thread)?;
            }
            Ok(refs.fork_thread(name, thread)?)
        }
    }
}

/// Lets the thread's reference tell all of it, so that the new one can share it.
fn freeze(context: &Context, repository: &Arc<Repository>, thread: &ThreadRef) -> Result<()> {
    match ThreadLock::try_acquire(repository, &thread.id) {
        Ok(lock) => {
            let thread = repository.refs().thread_again(thread)?;
            if View::freeze_closed(repository, &lock, &thread)?.is_some() {
                return Ok(());
            }
            let view = View::open(Arc::clone(repository), &thread.name, lock, ViewOptions::default())?;
            let frozen = view.freeze();
            let closed = view.close();
            frozen?;
            Ok(closed?)
        }
        Err(LockError::Held { pid }) => mounted::freeze(context, repository, thread, pid),
        Err(error) => Err(error.into()),
    }
}
