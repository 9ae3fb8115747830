//! The command line's shape.

use std::path::PathBuf;

use clap::builder::styling::Styles;
use clap::{ArgAction, Parser, Subcommand};

use crate::commands::{
    bind, completions, config, diff, doctor, export, fsck, gc, import, init, list, log, mount, run, service,
    snapshot, status, thread, unmount,
};

const AFTER_HELP: &str = "\
Exit codes:
  0 done   1 failed   2 wrong usage   3 no such thread, snapshot or mount
  4 conflict (exists, busy, dirty)    5 not permitted                6 timed out

Environment:
  SELVEDGE_REPO         the repository when --repo is not given
  SELVEDGE_LOG          log filter, for instance debug or selvedge_supervisor=trace
  SELVEDGE_LOG_FILE     file for log lines instead of standard error
  SELVEDGE_RUNTIME_DIR  records and sockets of running mounts
                        (default: $XDG_STATE_HOME/selvedge/run, else ~/.local/state/selvedge/run)

Example:
  selvedge init && selvedge import && selvedge thread create try
  selvedge mount try ../try";

/// Mounts threads of a source tree as separate writable directories.
///
/// A repository (.selvedge) keeps snapshots of a directory tree and threads: named lines of work, each of which
/// can be mounted as a writable directory of its own. Unchanged files are stored once, however many threads
/// there are.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, after_long_help = AFTER_HELP, styles = Styles::plain(), infer_subcommands = false)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that stand before or after the command's words.
#[derive(Debug, Clone, clap::Args)]
pub struct GlobalArgs {
    /// The directory that holds .selvedge [default: `$SELVEDGE_REPO`, else the nearest at or above the current
    /// directory]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub repo: Option<PathBuf>,
    /// Print one JSON document on standard output (errors: one on standard error)
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
    /// Log what happens to standard error; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

/// The commands. What help says of each is written on its arguments, whole: a line here would take its place.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "what each does is said of its arguments")]
pub enum Command {
    Init(init::InitArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Snapshot(snapshot::SnapshotArgs),
    Status(status::StatusArgs),
    Diff(diff::DiffArgs),
    Log(log::LogArgs),
    /// List, show, make, rename and delete threads
    #[command(subcommand)]
    Thread(thread::ThreadCommand),
    Mount(mount::MountArgs),
    Run(run::RunArgs),
    Bind(bind::BindArgs),
    #[command(alias = "umount")]
    Unmount(unmount::UnmountArgs),
    #[command(alias = "mounts")]
    List(list::ListArgs),
    /// Start, stop and look at the background process that holds mounts
    #[command(subcommand)]
    Service(service::ServiceCommand),
    Doctor(doctor::DoctorArgs),
    Gc(gc::GcArgs),
    Fsck(fsck::FsckArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
}
