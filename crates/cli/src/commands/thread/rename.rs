//! `selvedge thread rename`

use selvedge_store::ThreadName;
use selvedge_worker_proto::ErrorKind;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::standing::lock_thread;

/// Give a thread another name
///
/// Its changes come along. A mounted thread is refused, since its mount bears its name.
#[derive(Debug, clap::Args)]
pub struct RenameArgs {
    /// The thread
    #[arg(value_name = "NAME")]
    from: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    to: String,
}

#[derive(Debug, Serialize)]
struct Document {
    name: String,
}

/// Runs the command.
pub fn run(context: &Context, args: &RenameArgs) -> Result<()> {
    let from: ThreadName = args.from.parse()?;
    let to: ThreadName = args.to.parse()?;
    let repository = context.repository()?;
    let refs = repository.refs();
    let tried = || format!("cannot rename thread {from} to {to}");
    let thread = refs.thread(&from)?;
    let _lock = lock_thread(context, &repository, &thread.id).map_err(|error| {
        CliError::from(error)
            .context(tried())
            .hint_if(ErrorKind::Conflict, format!("unmount it first: selvedge unmount {from}"))
    })?;
    // Looked up again: it may have changed before it was locked.
    let thread = refs.thread_again(&thread).map_err(|error| CliError::from(error).context(tried()))?;
    refs.rename_thread(&thread, &to).map_err(|error| CliError::from(error).context(tried()))?;
    context.ui.result(&Document { name: to.to_string() }, || format!("thread {from} is now called {to}\n"))
}
