//! `selvedge log`

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;

use selvedge_mountpoint::escape_for_print;
use selvedge_store::{ObjectId, Snapshot, history};
use selvedge_worker_proto::WirePath;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::target::Target;

/// Show the snapshots that a thread or snapshot came from, newest first
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// A thread's name, or a snapshot's id or at least 8 digits of it
    #[arg(value_name = "THREAD|SNAPSHOT")]
    what: String,
}

#[derive(Debug, Serialize)]
struct Document {
    snapshot: String,
    parents: Vec<String>,
    time: String,
    /// A message is bytes, as a path is, and takes the same form where it is no text.
    message: WirePath,
}

/// Runs the command.
pub fn run(context: &Context, args: &LogArgs) -> Result<()> {
    let (repository, _objects) = context.held_repository()?;
    let snapshots = history(repository.store(), &Target::find(&repository, &args.what)?.snapshot())?;
    let documents: Vec<Document> = snapshots.iter().map(document).collect();
    context.ui.result(&documents, || snapshots.iter().map(text).collect::<Vec<_>>().join("\n"))
}

fn document((id, snapshot): &(ObjectId, Snapshot)) -> Document {
    Document {
        snapshot: id.to_string(),
        parents: snapshot.parents.iter().map(ObjectId::to_string).collect(),
        time: snapshot.time.to_string(),
        message: WirePath::from(OsString::from_vec(snapshot.message.clone())),
    }
}

fn text((id, snapshot): &(ObjectId, Snapshot)) -> String {
    let mut text = format!("snapshot {id}\ntime     {}\n", snapshot.time);
    if snapshot.parents.len() > 1 {
        let parents: Vec<String> =
            snapshot.parents.iter().map(|parent| parent.to_string()[..12].to_owned()).collect();
        let _ = writeln!(text, "parents  {}", parents.join(" "));
    }
    if !snapshot.message.is_empty() {
        text.push('\n');
        for line in snapshot.message.trim_ascii_end().split(|&byte| byte == b'\n') {
            let _ = writeln!(text, "    {}", escape_for_print(line));
        }
    }
    text
}
