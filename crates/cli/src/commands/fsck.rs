//! `selvedge fsck`

use std::fmt::Write as _;

use selvedge_mountpoint::escape_for_print;
use selvedge_store::compare::{Body, Item, Side};
use selvedge_store::export::SourceError;
use selvedge_store::fsck::{Problem, Report, fsck};
use selvedge_store::{ObjectKind, Repository, ThreadLock, ThreadRef};
use selvedge_view::check_layers;
use selvedge_worker_proto::ErrorKind;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::side;
use crate::sorting::from_source;
use crate::target::Target;
use crate::ui::{counted, human_bytes};

/// Check the repository for damage
///
/// Reads every object and compares it with its name, follows every thread through its snapshots, and checks the
/// layers. Names what is damaged and where that shows. Changes nothing.
#[derive(Debug, clap::Args)]
pub struct FsckArgs {}

#[derive(Debug, Serialize)]
struct Document<'a> {
    object: &'a str,
    problem: &'a str,
    affects: &'a [String],
}

/// Runs the command.
pub fn run(context: &Context, FsckArgs {}: FsckArgs) -> Result<()> {
    let (repository, _objects) = context.held_repository()?;
    let mut report = {
        let progress = context.ui.progress("checking");
        fsck(&repository, &mut |read| progress.set(read.files, read.bytes))?
    };
    for thread in std::mem::take(&mut report.threads) {
        check_thread(context, &repository, &thread, &mut report);
        report.threads.push(thread);
    }
    let documents: Vec<Document<'_>> = report.problems.iter().map(document).collect();
    context.ui.result(&documents, || text(&report))?;
    match report.problems.len() {
        0 => Ok(()),
        bad => Err(CliError::failed(match bad {
            1 => "one thing is damaged".to_owned(),
            bad => format!("{bad} things are damaged"),
        })
        .hint("keep a copy of .selvedge; what stands beside them is lost or may be, everything else is whole and can be exported; what you have elsewhere comes back if you import it into a new thread: selvedge import DIR --thread NAME")),
    }
}

fn document(problem: &Problem) -> Document<'_> {
    Document { object: &problem.object, problem: &problem.problem, affects: &problem.affects }
}

fn text(report: &Report) -> String {
    if report.problems.is_empty() {
        return format!(
            "checked {}, {}, and {}: all is as it should be\n",
            counted(report.objects, "object"),
            human_bytes(report.bytes),
            counted(report.threads.len() as u64, "thread")
        );
    }
    report.problems.iter().fold(String::new(), |mut text, problem| {
        let shown = |text: &str| escape_for_print(text.as_bytes());
        // A string takes everything.
        let _ = writeln!(text, "{}: {}", shown(&problem.object), shown(&problem.problem));
        for place in &problem.affects {
            let _ = writeln!(text, "  affects {}", shown(place));
        }
        if problem.affects.is_empty() {
            text.push_str("  nothing needs it\n");
        }
        text
    })
}

/// Checks the layers of a thread, and walks through what they change.
fn check_thread(context: &Context, repository: &Repository, thread: &ThreadRef, report: &mut Report) {
    let name = format!("thread {}", thread.name);
    let lock = ThreadLock::try_acquire(repository, &thread.id).ok();
    for (layer, problem) in check_layers(repository, thread, lock.as_ref()) {
        report.problems.push(Problem {
            object: format!("layer {layer}"),
            problem,
            affects: vec![name.clone()],
        });
    }
    if lock.is_none() && thread.upper.is_some() {
        context.ui.note(format!(
            "{name} is in use: the catalog of what it is writing was not checked, only what it shows"
        ));
    }
    drop(lock);
    let mut walk = Walk { repository, name: &name, report };
    let walked =
        side::open(context, repository, &Target::Thread(thread.clone())).and_then(|side| walk.run(&*side));
    match walked {
        Ok(()) => {}
        Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::TimedOut) => {
            context.ui.note(format!("{name} was not walked through: {error}"));
        }
        Err(error) => walk.note(name.clone(), error.message, name.clone()),
    }
}

/// A walk through what the layers of a thread change.
struct Walk<'a> {
    repository: &'a Repository,
    name: &'a str,
    report: &'a mut Report,
}

impl Walk<'_> {
    fn run(&mut self, side: &dyn Side) -> Result<()> {
        let mut unread = vec![(Vec::new(), side.root().map_err(from_source)?)];
        while let Some((path, item)) = unread.pop() {
            match &item.body {
                Body::Directory { stored: None } => match side.children(&item) {
                    Ok(children) => unread.extend(children.into_iter().map(|(name, child)| {
                        let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                        ([&path, separator, &name].concat(), child)
                    })),
                    Err(error) => self.failed(&path, error),
                },
                Body::Regular { .. } => self.check_file(side, &path, &item),
                // What is in the store was followed already.
                _ => {}
            }
        }
        Ok(())
    }

    fn check_file(&mut self, side: &dyn Side, path: &[u8], item: &Item) {
        let Body::Regular { blob: Some(blob), .. } = item.body else {
            if let Err(error) = side.open(item) {
                self.failed(path, error);
            }
            return;
        };
        let (object, place) = (format!("blob {blob}"), self.place(path));
        if let Some(known) = self.report.problems.iter_mut().find(|problem| problem.object == object) {
            if !known.affects.contains(&place) {
                known.affects.push(place);
            }
        } else if matches!(self.repository.store().has(ObjectKind::Blob, &blob), Ok(false)) {
            self.note(object, "it is missing".to_owned(), place);
        }
    }

    fn failed(&mut self, path: &[u8], error: SourceError) {
        self.note(self.name.to_owned(), from_source(error).message, self.place(path));
    }

    fn place(&self, path: &[u8]) -> String {
        if path.is_empty() {
            self.name.to_owned()
        } else {
            format!("{} at {}", self.name, String::from_utf8_lossy(path))
        }
    }

    fn note(&mut self, object: String, problem: String, place: String) {
        self.report.problems.push(Problem { object, problem, affects: vec![place] });
    }
}
