//! `selvedge thread delete`

use selvedge_store::ThreadName;
use selvedge_view::remove_layers;
use selvedge_worker_proto::ErrorKind;
use serde::Serialize;

use crate::changes::has_changes;
use crate::context::Context;
use crate::error::{CliError, Result, chain};
use crate::standing::lock_thread;

/// Delete a thread
///
/// Its changes go, its snapshots stay. A mounted thread is refused, one with changes too unless forced.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The thread
    #[arg(value_name = "NAME")]
    name: String,
    /// Delete it although it has changes since its snapshot, which are then lost
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    name: String,
    snapshot: String,
}

/// Runs the command.
pub fn run(context: &Context, args: &DeleteArgs) -> Result<()> {
    let name: ThreadName = args.name.parse()?;
    let repository = context.repository()?;
    let refs = repository.refs();
    let tried = || format!("cannot delete thread {name}");
    let thread = refs.thread(&name)?;
    let lock = lock_thread(context, &repository, &thread.id).map_err(|error| {
        CliError::from(error)
            .context(tried())
            .hint_if(ErrorKind::Conflict, format!("unmount it first: selvedge unmount {name}"))
    })?;
    // Looked up again: it may have changed before it was locked.
    let thread = refs.thread_again(&thread).map_err(|error| CliError::from(error).context(tried()))?;
    if !args.force && has_changes(context, &repository, &thread) {
        return Err(CliError::conflict(format!("{}: it has changes since its snapshot", tried())).hint(
            format!(
                "keep them with selvedge export {name} DIR, or lose them with --force; its snapshot is {}",
                thread.snapshot
            ),
        ));
    }
    refs.delete_thread(&thread).map_err(|error| CliError::from(error).context(tried()))?;
    // What somebody reads at this moment goes with the next `gc`.
    remove_layers(&repository, &thread);
    if let Err(error) = lock.remove(&repository, &thread.id) {
        context.ui.warn(chain(&error));
    }
    let document = Document { name: name.to_string(), snapshot: thread.snapshot.to_string() };
    context
        .ui
        .result(&document, || format!("deleted thread {name}; its last snapshot was {}\n", thread.snapshot))
}
