//! What one mutation takes inside a view, without a kernel in between.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use selvedge_store::import::{ImportOptions, import};
use selvedge_store::{Repository, ThreadLock};
use selvedge_view::{Request, RequestKey, SetAttr, View, ViewOptions};

use super::super::options::Options;
use super::super::row::{Goal, Place, Row, Unit};
use super::super::scene::Scene;
use super::super::subject::Subject;

/// Threads that change things side by side.
const THREADS: u64 = 4;

pub(super) fn scene(options: &Options) -> Scene {
    let each = options.scaled(20_000);
    let row = |name, share: f64, most: f64| {
        Row::value(name, Unit::Seconds, move |place| {
            let mut times = commit_times(place, each)?;
            times.sort_unstable_by(f64::total_cmp);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share of a few ten thousand"
            )]
            let at = (times.len() as f64 * share) as usize;
            times.get(at).or(times.last()).copied().context("nothing was measured")
        })
        .applies(|subject| subject == Subject::Selvedge)
        .must(Goal::AtMost(most))
    };
    let rows = vec![
        row("one mutation in the view, 4 threads: p50", 0.5, 12e-6),
        row("one mutation in the view, 4 threads: p99.9", 0.999, 1e-3),
    ];
    let tree = |root: &Path| Ok(fs::write(root.join("one"), "one\n")?);
    Scene { name: "commits", tree: Box::new(tree), rows }
}

/// How long each change of a directory's mode took, in seconds: the smallest commit there is.
fn commit_times(place: &Place<'_>, each: usize) -> Result<Vec<f64>> {
    let dir = tempfile::tempdir_in(place.image.root())?;
    let (source, home) = (dir.path().join("source"), dir.path().join("home"));
    fs::create_dir(&source)?;
    fs::create_dir(&home)?;
    let (repository, _) = Repository::init(&home)?;
    let exclude = globset::GlobSet::empty();
    let wish = ImportOptions { source: &source, exclude: &exclude, message: b"", previous: None };
    let snapshot = import(&repository, &wish, &|_| ())?.snapshot;
    let name = "main".parse()?;
    repository.refs().create_thread(&name, &snapshot, &[])?;
    let lock = ThreadLock::try_acquire(&repository, &repository.refs().thread(&name)?.id)?;
    let view = View::open(repository, &name, lock, ViewOptions::default())?;
    let times = Mutex::new(Vec::new());
    let (seen, all) = (&view, &times);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || one_thread(seen, thread, each, all))).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    view.close()?;
    Ok(times.into_inner().unwrap_or_default())
}

fn one_thread(view: &View, thread: u64, each: usize, times: &Mutex<Vec<f64>>) -> Result<()> {
    let request =
        |unique| Request { key: RequestKey { epoch: 0, unique }, resent: false, uid: 0, gid: 0, umask: 0 };
    let name = format!("thread-{thread}");
    let directory = view.mkdir(&request(thread), view.root(), name.as_bytes(), 0o755)?.ino;
    let mut own = Vec::with_capacity(each);
    for number in 0..each {
        let mode = if number % 2 == 0 { 0o700 } else { 0o755 };
        let begun = Instant::now();
        view.setattr(directory, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        own.push(begun.elapsed().as_secs_f64());
    }
    times.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?.extend(own);
    Ok(())
}
