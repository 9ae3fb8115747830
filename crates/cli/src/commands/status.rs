//! `selvedge status`

use std::fmt::Write as _;
use std::process::ExitCode;

use selvedge_store::ThreadName;
use selvedge_store::compare::PathFilter;

use super::diff::exit_code;
use crate::changes::{Compared, show_path};
use crate::context::Context;
use crate::error::Result;
use crate::target::Target;

/// Show what a thread has changed since its snapshot
///
/// One line for each path: A added, M modified, D deleted, T now a file of another kind, R renamed. Content, mode,
/// owner, extended attributes and symbolic links' targets count, times alone do not. A mounted thread is looked at
/// as it is, and not disturbed.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The thread
    #[arg(value_name = "THREAD")]
    thread: String,
    /// Exit with 1 if there are changes
    #[arg(long)]
    exit_code: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: &StatusArgs) -> Result<ExitCode> {
    let name: ThreadName = args.thread.parse()?;
    let (repository, _objects) = context.held_repository()?;
    let thread = repository.refs().thread(&name)?;
    let targets = (&Target::Snapshot(thread.snapshot), &Target::Thread(thread));
    let compared = Compared::new(context, &repository, targets, PathFilter::default())
        .map_err(|error| error.context(format!("cannot compare thread {name} with its snapshot")))?;
    context.ui.result(&compared.documents(), || {
        compared.changes.iter().fold(String::new(), |mut text, change| {
            // A string takes everything.
            let _ = match &change.from {
                Some(from) => writeln!(text, "R {} -> {}", show_path(from), show_path(&change.path)),
                None => writeln!(text, "{} {}", change.kind.letter(), show_path(&change.path)),
            };
            text
        })
    })?;
    Ok(exit_code(args.exit_code, &compared))
}
