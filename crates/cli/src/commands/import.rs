//! `selvedge import`

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use selvedge_store::import::{ImportOptions, ImportReport, import};
use selvedge_store::{NewState, RefsError, Repository, ThreadLock, ThreadName, ThreadRef};
use selvedge_worker_proto::ErrorKind;
use serde::Serialize;

use crate::changes::has_changes;
use crate::context::{Context, absolute, refuse_selvedge_mount, refuse_way_into_repository};
use crate::error::{CliError, Result};
use crate::standing::lock_thread;
use crate::ui::{Ui, counted, human_bytes, show, show_os};

/// Capture a directory tree as a snapshot and point a thread at it
///
/// Every file counts; what --exclude names, the repository's own .selvedge and other mounts inside SRC are left
/// out. Files that have not changed since the thread's last import are not read again. A thread that is mounted
/// or has changes is refused.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The directory to capture [default: the one that holds .selvedge]
    #[arg(value_name = "SRC")]
    source: Option<PathBuf>,
    /// The thread to point at the snapshot; made if there is none
    #[arg(long, value_name = "NAME", default_value = "main")]
    thread: String,
    /// The snapshot's message
    #[arg(short, long, value_name = "MSG", default_value = "", hide_default_value = true)]
    message: OsString,
    /// Leave out what matches: a pattern with a slash is matched against the path below SRC, one without
    /// against every name. `*` does not cross a slash, `**` does
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<OsString>,
}

#[derive(Debug, Serialize)]
struct Document {
    thread: String,
    snapshot: String,
    files: u64,
    bytes: u64,
    new_bytes: u64,
}

/// Runs the command.
pub fn run(context: &Context, args: &ImportArgs) -> Result<()> {
    let name: ThreadName = args.thread.parse()?;
    let exclude = patterns(&args.exclude)?;
    let (repository, _objects) = context.held_repository()?;
    let source = match &args.source {
        Some(source) => checked_source(source)?,
        None => repository.dir().to_owned(),
    };
    // Held until the thread points at the snapshot, so that nobody mounts it meanwhile.
    let before = Before::of(context, &repository, &name)?;
    let message = args.message.clone().into_vec();
    let options = ImportOptions {
        source: &source,
        exclude: &exclude,
        message: &message,
        previous: before.as_ref().map(|before| before.thread.snapshot),
    };
    let report = {
        let progress = context.ui.progress("importing");
        import(&repository, &options, &|seen| progress.set(seen.files, seen.bytes))?
    };
    point(&repository, &name, before.as_ref(), &report)?;
    mention(context.ui, &source, &report);
    let document = Document {
        thread: name.to_string(),
        snapshot: report.snapshot.to_string(),
        files: report.files,
        bytes: report.bytes,
        new_bytes: report.new_bytes,
    };
    context.ui.result(&document, || {
        format!(
            "imported {}, {} ({} new) into thread {name}\nsnapshot {}\n",
            counted(report.files, "file"),
            human_bytes(report.bytes),
            human_bytes(report.new_bytes),
            report.snapshot
        )
    })
}

/// The absolute path of a tree that can be captured.
fn checked_source(source: &Path) -> Result<PathBuf> {
    let source = absolute(source)?;
    let tried = format!("cannot import {}", show(&source));
    // A mounted thread is exported through its supervisor, at one moment; read from here it would be a mixture.
    refuse_selvedge_mount(&source).map_err(|error| {
        error.context(&tried).hint("export the thread first (selvedge export), and import what that writes")
    })?;
    refuse_way_into_repository(&source).map_err(|error| error.context(&tried))?;
    Ok(source)
}

/// A thread that exists, locked.
struct Before {
    thread: ThreadRef,
    _lock: ThreadLock,
}

impl Before {
    fn of(context: &Context, repository: &Repository, name: &ThreadName) -> Result<Option<Self>> {
        let thread = match repository.refs().thread(name) {
            Ok(thread) => thread,
            Err(RefsError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let lock = lock_thread(context, repository, &thread.id).map_err(|error| {
            CliError::from(error).context(format!("cannot import into thread {name}")).hint_if(
                ErrorKind::Conflict,
                format!("unmount it first (selvedge unmount {name}), or import into another with --thread"),
            )
        })?;
        // Looked up again: it may have changed before it was locked.
        let thread = repository
            .refs()
            .thread_again(&thread)
            .map_err(|error| CliError::from(error).context(format!("cannot import into thread {name}")))?;
        if has_changes(context, repository, &thread) {
            return Err(CliError::conflict(format!(
                "cannot import into thread {name}: it has changes since its snapshot, which would be lost"
            ))
            .hint("import into another thread with --thread"));
        }
        Ok(Some(Self { thread, _lock: lock }))
    }
}

fn point(
    repository: &Repository,
    name: &ThreadName,
    before: Option<&Before>,
    report: &ImportReport,
) -> Result<()> {
    let refs = repository.refs();
    let moved = match before {
        None => refs.create_thread(name, &report.snapshot, &[]),
        Some(before) => {
            let new = NewState { snapshot: report.snapshot, layers: Vec::new(), upper: None };
            refs.update_thread(&before.thread, &new)
        }
    };
    let tried = || format!("cannot point thread {name} at the snapshot");
    match moved {
        Ok(_) => Ok(()),
        // It was not there when this import began.
        Err(RefsError::Exists { .. }) => {
            Err(CliError::conflict(format!("{}: another command made the thread meanwhile", tried()))
                .hint("import again: what is stored already is not read twice"))
        }
        Err(error) => Err(CliError::from(error).context(tried())),
    }
}

/// Names what the snapshot does not have, or has otherwise than the user may expect.
fn mention(ui: Ui, source: &Path, report: &ImportReport) {
    ui.warn_of(source, &report.skipped_mounts, "is another mount and was not entered");
    ui.warn_of(source, &report.changed, "kept changing while it was read");
    ui.warn_of(source, &report.vanished, "vanished while it was imported, and is left out");
}

fn patterns(globs: &[OsString]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for text in globs {
        let bad = |why: String| {
            CliError::usage(format!("--exclude {}: {why}", show_os(text)))
                .hint("patterns are like a shell's: * ? [abc] {one,other} and ** across slashes; \\ before one takes it as it is")
        };
        let pattern = text.to_str().ok_or_else(|| bad("it is not UTF-8".to_owned()))?;
        let trimmed = pattern.trim_start_matches('/');
        let anywhere = (!pattern.contains('/')).then(|| format!("**/{trimmed}"));
        for pattern in std::iter::once(trimmed).chain(anywhere.as_deref()) {
            let glob = GlobBuilder::new(pattern.trim_end_matches('/'))
                .literal_separator(true)
                .build()
                .map_err(|error| bad(error.kind().to_string()))?;
            set.add(glob);
        }
    }
    set.build().map_err(|error| {
        CliError::usage(format!("--exclude: {error}")).hint("give fewer or simpler patterns")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_without_a_slash_match_every_name() {
        let set = patterns(&["*.o".into(), "/target".into(), "a/*.c".into()]).unwrap();
        for (path, excluded) in [
            ("x.o", true),
            ("a/b/x.o", true),
            ("target", true),
            ("sub/target", false),
            ("a/x.c", true),
            ("a/b/x.c", false),
            ("b/a/x.c", false),
        ] {
            assert_eq!(set.is_match(path), excluded, "{path}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_a_usage_error() {
        assert_eq!(patterns(&["a[".into()]).unwrap_err().exit_code(), 2);
    }
}
