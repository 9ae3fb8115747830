//! `selvedge thread …`

pub mod create;
pub mod delete;
pub mod list;
pub mod rename;
pub mod show;
mod summary;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Result;

/// Commands about threads.
#[derive(Debug, Subcommand)]
pub enum ThreadCommand {
    /// List all threads
    List(list::ListArgs),
    /// Show one thread
    Show(show::ShowArgs),
    /// Make a thread from another, or from a snapshot
    Create(create::CreateArgs),
    /// Delete a thread
    Delete(delete::DeleteArgs),
    /// Give a thread another name
    Rename(rename::RenameArgs),
}

/// Runs the command.
pub fn run(context: &Context, command: ThreadCommand) -> Result<()> {
    match command {
        ThreadCommand::List(args) => list::run(context, args),
        ThreadCommand::Show(args) => show::run(context, &args),
        ThreadCommand::Create(args) => create::run(context, &args),
        ThreadCommand::Delete(args) => delete::run(context, &args),
        ThreadCommand::Rename(args) => rename::run(context, &args),
    }
}
