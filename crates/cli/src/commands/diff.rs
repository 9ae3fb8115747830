//! `selvedge diff`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::process::ExitCode;

use selvedge_store::compare::PathFilter;

use crate::changes::{Compared, show_path};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::patch::{Stat, count_invisible, pieces};
use crate::target::Target;
use crate::ui::{Ui, show_os};

/// Show what differs between two threads or snapshots
///
/// Threads are compared as they are now, mounted or not; one argument compares a thread with its snapshot (a snapshot
/// with the one it came from). Prints a unified diff as git does. A file that moved and did not change is shown as
/// renamed, one that did both as deleted and added.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// A thread's name, or a snapshot's id or at least 8 digits of it
    #[arg(value_name = "A")]
    old: String,
    /// What to compare it with
    #[arg(value_name = "B")]
    new: Option<String>,
    /// Print only the names of what differs
    #[arg(long, conflicts_with = "stat")]
    name_only: bool,
    /// Print only how many lines differ in each file
    #[arg(long)]
    stat: bool,
    /// Exit with 1 if there are differences
    #[arg(long)]
    exit_code: bool,
    /// Only these paths, relative to the tree's root, and what is beneath them
    #[arg(last = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Runs the command.
pub fn run(context: &Context, args: &DiffArgs) -> Result<ExitCode> {
    let paths = filter(&args.paths)?;
    let (repository, _objects) = context.held_repository()?;
    let first = Target::find(&repository, &args.old)?;
    let (old, new) = match &args.new {
        Some(new) => (first, Target::find(&repository, new)?),
        None => (Target::Snapshot(before(&repository, &first, &args.old)?), first),
    };
    let tried = || match &args.new {
        Some(new) => format!("cannot compare {} with {new}", args.old),
        None => format!("cannot compare {} with its snapshot", args.old),
    };
    let compared =
        Compared::new(context, &repository, (&old, &new), paths).map_err(|error| error.context(tried()))?;
    if context.ui.json || args.name_only {
        context.ui.result(&compared.documents(), || {
            compared.changes.iter().map(|change| show_path(&change.path) + "\n").collect()
        })?;
    } else {
        print(context.ui, &compared, args.stat).map_err(|error| error.context(tried()))?;
    }
    Ok(exit_code(args.exit_code, &compared))
}

/// What a single argument is compared with.
fn before(
    repository: &selvedge_store::Repository,
    target: &Target,
    word: &str,
) -> Result<selvedge_store::ObjectId> {
    match target {
        Target::Thread(thread) => Ok(thread.snapshot),
        Target::Snapshot(id) => repository.store().snapshot(id)?.parents.first().copied().ok_or_else(|| {
            CliError::usage(format!(
                "snapshot {word} came from no other, so there is nothing to compare it with"
            ))
            .hint("name two: selvedge diff A B")
        }),
    }
}

/// The exit code of a command that compares.
pub(super) fn exit_code(asked: bool, compared: &Compared) -> ExitCode {
    if asked && !compared.changes.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

fn print(ui: Ui, compared: &Compared, only_statistics: bool) -> Result<()> {
    let mut stat = Stat::default();
    for piece in pieces(&compared.changes) {
        let (old, new) = piece.load(&*compared.old, &*compared.new)?;
        if only_statistics {
            stat.add(&piece, &old, &new);
        } else {
            let mut patch = Vec::new();
            piece.write(&old, &new, &mut patch);
            if !ui.raw_part(&patch)? {
                return Ok(());
            }
        }
    }
    ui.raw(stat.text().as_bytes())?;
    match count_invisible(&compared.changes) {
        0 => {}
        1 => ui.note("one path more differs in what a patch does not show (directories, owners, modes, attributes): --name-only names it"),
        more => ui.note(format!(
            "{more} paths more differ in what a patch does not show (directories, owners, modes, attributes): --name-only names them"
        )),
    }
    Ok(())
}

/// Paths as the comparison knows them: relative, without dots.
fn filter(paths: &[OsString]) -> Result<PathFilter> {
    let clean = |path: &OsString| {
        let mut clean: Vec<u8> = Vec::new();
        for part in Path::new(path).components() {
            match part {
                Component::CurDir => {}
                Component::Normal(name) => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name.as_bytes());
                }
                Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(CliError::usage(format!("{} is no path inside a tree", show_os(path)))
                        .hint("paths are relative to the tree's root, without .."));
                }
            }
        }
        if path.is_empty() {
            return Err(CliError::usage("a path is empty").hint("name paths relative to the tree's root"));
        }
        Ok(clean)
    };
    paths.iter().map(clean).collect::<Result<Vec<_>>>().map(PathFilter::new)
}
