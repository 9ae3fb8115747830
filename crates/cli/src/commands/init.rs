//! `selvedge init`

use std::path::PathBuf;

use selvedge_store::{Created, Repository};
use selvedge_worker_proto::WirePath;
use serde::Serialize;

use crate::context::{Context, absolute, refuse_selvedge_mount, refuse_way_into_repository};
use crate::error::{CliError, Result};
use crate::ui::show;

/// Make a repository in a directory
///
/// Makes DIR/.selvedge, which git ignores through the .gitignore in it. Where there is a repository already,
/// nothing changes. No thread is made: the first import makes `main`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The directory [default: --repo, `$SELVEDGE_REPO`, else the current one]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Document {
    repo: WirePath,
}

/// Runs the command.
pub fn run(context: &Context, args: InitArgs) -> Result<()> {
    let directory = match args.directory {
        Some(directory) => absolute(&directory)?,
        None => match context.named_repository()? {
            Some(named) => named,
            None => absolute(".".as_ref())?,
        },
    };
    let what = format!("cannot make a repository in {}", show(&directory));
    refuse_selvedge_mount(&directory)
        .map_err(|error| error.context(&what).hint("choose a directory that lies on no Selvedge mount"))?;
    refuse_way_into_repository(&directory).map_err(|error| error.context(&what))?;
    if !directory.is_dir() {
        let missing = !directory.exists();
        return Err(if missing {
            CliError::not_found(format!("{what}: there is no such directory"))
                .hint("make the directory first")
        } else {
            CliError::conflict(format!("{what}: it is not a directory")).hint("name a directory")
        });
    }
    let (repository, created) = Repository::init(&directory)?;
    let repo = repository.dir().to_owned();
    context.ui.result(&Document { repo: WirePath(repo.clone()) }, || match created {
        Created::New => format!("made a repository in {}\n", show(&repo)),
        Created::Existing => format!("{} has a repository already; nothing was changed\n", show(&repo)),
    })
}
