//! What mounts in the background cost: the time until a directory of a large tree is usable, with the service up and
//! without, beside `git worktree add`; and the memory of the service and of idle workers.
//!
//! Fails when a figure is beyond what it may be in a build with optimisation.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use selvedge_bench::{Figures, LargeTree, run};

/// Files of the tree, unless an argument says otherwise.
const FILES: usize = 50_000;
/// Mounts at once.
const MOUNTS: usize = 50;
/// What the median of a mount may be with the service up.
const WARM: Duration = Duration::from_millis(50);
/// What the median of a mount may be that starts the service.
const COLD: Duration = Duration::from_millis(300);
/// What an idle worker may have to itself, in KiB.
const WORKER: u64 = 8 * 1024;

fn main() -> Result<ExitCode> {
    let files = match std::env::args().nth(1) {
        Some(text) => text.parse().context("the argument is a number of files")?,
        None => FILES,
    };
    let scene = Scene::new(files)?;
    println!("a tree of {files} files");
    let warm = Figures::measure(20, || scene.mounted_once())?;
    println!("mount and unmount, service up  {warm}");
    let times = scene.times(20, |scene| scene.mount("main", "main").map(drop), Scene::unmount)?;
    let warm = report("mount, service up", &times, Some(WARM));
    let times = scene.times(10, |scene| scene.mount("main", "main").map(drop), Scene::stop)?;
    let cold = report("mount, service down", &times, Some(COLD));
    let times = scene.times(3, Scene::add_worktree, Scene::remove_worktree)?;
    report("git worktree add", &times, None);
    let small = scene.memory()?;
    Ok(if warm && cold && small { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the figures of one thing. Whether its median is within `limit`.
fn report(what: &str, times: &[Duration], limit: Option<Duration>) -> bool {
    let mut times = times.to_vec();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let worst = times.last().copied().unwrap_or_default();
    let late = limit.is_some_and(|limit| median > limit);
    let verdict = if late { "  TOO SLOW" } else { "" };
    println!(
        "{what:<22}  median {:7.1} ms   max {:7.1} ms{verdict}",
        median.as_secs_f64() * 1e3,
        worst.as_secs_f64() * 1e3
    );
    !late
}

/// A repository of a large tree.
struct Scene(LargeTree);

impl Scene {
    fn new(files: usize) -> Result<Self> {
        let tree = LargeTree::new(files)?;
        tree.commit_to_git()?;
        for words in [&["init"][..], &["import", "--exclude", "/.git"]] {
            run(&mut tree.selvedge(words))?;
        }
        Ok(Self(tree))
    }

    fn mount(&self, thread: &str, place: &str) -> Result<String> {
        self.0.mount(thread, place)
    }

    fn stop(&self) -> Result<()> {
        self.0.stop()
    }

    fn unmount(&self) -> Result<()> {
        run(&mut self.0.selvedge(&["unmount", "main"])).map(drop)
    }

    fn mounted_once(&self) -> Result<()> {
        self.mount("main", "main")?;
        self.unmount()
    }

    fn add_worktree(&self) -> Result<()> {
        let place = self.0.beside("worktree");
        run(self.0.git(&["worktree", "add", "--quiet", "--detach"]).arg(place)).map(drop)
    }

    fn remove_worktree(&self) -> Result<()> {
        let place = self.0.beside("worktree");
        run(self.0.git(&["worktree", "remove", "--force"]).arg(place)).map(drop)
    }

    /// How long `what` takes each time, undone by `undo` in between.
    fn times(
        &self,
        count: usize,
        what: impl Fn(&Self) -> Result<()>,
        undo: impl Fn(&Self) -> Result<()>,
    ) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            what(self)?;
            times.push(begun.elapsed());
            undo(self)?;
        }
        Ok(times)
    }

    /// Mounts many threads, and prints what memory the service and its idle workers have to themselves. Whether
    /// that is within bounds.
    fn memory(&self) -> Result<bool> {
        let names: Vec<String> = (0..MOUNTS).map(|number| format!("t{number}")).collect();
        for name in &names {
            run(&mut self.0.selvedge(&["thread", "create", name]))?;
            self.mount(name, name)?;
        }
        let service = process(&run(&mut self.0.selvedge(&["--json", "service", "status"]))?)?;
        let workers = children(service)?;
        println!("memory of the service with {MOUNTS} mounts: {} KiB private", private(service)?);
        let mut sizes = workers.iter().map(|pid| private(*pid)).collect::<Result<Vec<u64>>>()?;
        sizes.sort_unstable();
        let median = sizes.get(sizes.len() / 2).copied().unwrap_or_default();
        let largest = sizes.last().copied().unwrap_or_default();
        let large = largest > WORKER;
        let verdict = if large { "  TOO LARGE" } else { "" };
        println!(
            "memory of {} idle workers: median {median} KiB private, largest {largest} KiB, all {} KiB{verdict}",
            sizes.len(),
            sizes.iter().sum::<u64>()
        );
        Ok(!large && sizes.len() == MOUNTS)
    }
}

/// The number after `"pid":` in a document.
fn process(document: &str) -> Result<u32> {
    let (_, rest) = document.split_once("\"pid\":").context("the service's document has no pid")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no pid in {document}"))
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("children"))?;
        children.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    Ok(children)
}

/// What a process has to itself, in KiB.
fn private(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    Ok(lines.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}
