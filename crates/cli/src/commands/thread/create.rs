//! `selvedge thread create`

use selvedge_store::{ObjectId, ThreadName};
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::target::{Target, is_dirty};

/// Make a thread from another, or from a snapshot
///
/// The new thread starts as the other one is, and shares everything with it: no file is copied, so it takes
/// milliseconds whatever the tree's size.
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
    let repository = context.repository()?;
    let snapshot = start(Target::find(&repository, &args.from)?)?;
    let thread = repository
        .refs()
        .create_thread(&name, &snapshot, &[])
        .map_err(|error| CliError::from(error).context(format!("cannot make thread {name}")))?;
    let document = Document { name: thread.name.to_string(), snapshot: thread.snapshot.to_string() };
    context.ui.result(&document, || format!("made thread {name} from {}\n", args.from))
}

/// The snapshot to start from. A thread's changes would not come along, so a thread that has some is refused.
fn start(from: Target) -> Result<ObjectId> {
    match from {
        Target::Snapshot(id) => Ok(id),
        Target::Thread(thread) if is_dirty(&thread) => Err(CliError::conflict(format!(
            "thread {} has changes since its snapshot, and a thread can so far be made from a snapshot only",
            thread.name
        ))
        .hint(format!(
            "start from its snapshot, without the changes: --from {}; or take them along by way of a directory: selvedge export, then import --thread",
            thread.snapshot
        ))),
        Target::Thread(thread) => Ok(thread.snapshot),
    }
}
