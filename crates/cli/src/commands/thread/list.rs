//! `selvedge thread list`

use super::summary;
use crate::context::Context;
use crate::error::Result;
use crate::ui::{human_bytes, show, table};

/// List all threads
///
/// Shows each thread's snapshot, where it is mounted, whether it has changes since its snapshot, and the disk
/// space of what only it uses.
#[derive(Debug, clap::Args)]
pub struct ListArgs {}

/// Runs the command.
pub fn run(context: &Context, ListArgs {}: ListArgs) -> Result<()> {
    let repository = context.repository()?;
    let threads = repository.refs().threads()?;
    let summaries = summary::of(context, &repository, &threads)?;
    context.ui.result(&summaries, || {
        let rows: Vec<_> = summaries
            .iter()
            .map(|thread| {
                [
                    thread.name.clone(),
                    thread.snapshot[..12].to_owned(),
                    if thread.dirty { "changed" } else { "clean" }.to_owned(),
                    human_bytes(thread.own_bytes),
                    thread.mountpoint.as_ref().map_or("-".to_owned(), |path| show(path.as_path())),
                ]
            })
            .collect();
        table(["THREAD", "SNAPSHOT", "STATE", "OWN", "MOUNTED ON"], &rows)
    })
}
