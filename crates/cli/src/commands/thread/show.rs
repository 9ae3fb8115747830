//! `selvedge thread show`

use selvedge_store::ThreadName;

use super::summary;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::ui::{human_bytes, show};

/// Show one thread
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The thread
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs the command.
pub fn run(context: &Context, args: &ShowArgs) -> Result<()> {
    let name: ThreadName = args.name.parse()?;
    let repository = context.repository()?;
    let thread = repository.refs().thread(&name)?;
    let summary =
        summary::of(context, &repository, std::slice::from_ref(&thread))?.pop().ok_or_else(|| {
            CliError::not_found(format!("no thread is named {name}"))
                .hint("selvedge thread list shows what there is")
        })?;
    context.ui.result(&summary, || {
        format!(
            "thread    {}\nsnapshot  {}\nstate     {}\nown       {}\nmounted   {}\n",
            summary.name,
            summary.snapshot,
            if summary.dirty { "changed" } else { "clean" },
            human_bytes(summary.own_bytes),
            summary.mountpoint.as_ref().map_or("no".to_owned(), |path| show(path.as_path())),
        )
    })
}
