//! What grows with the tree and what does not: import, a new thread, its first `git status`, a snapshot, a mount, a first
//! `ls`, a comparison, a worker's memory; each beside what people do without Selvedge.
//!
//! `scale [FILES]…` measures trees of so many files, by default 1 000 and 50 000. With a release build, on an idle
//! machine. Fails when a figure that must stay flat is beyond its bound.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use selvedge_bench::{LargeTree, resident as resident_of, run};

/// Trees, unless the command line names others.
const FILES: [usize; 2] = [1000, 50_000];
/// How often what is quick is repeated.
const TIMES: usize = 11;
/// What the median of `thread create` may be, the start of the program included.
const CREATE: Duration = Duration::from_millis(10);
/// What the disk may hold more for a new thread.
const THREAD_BYTES: u64 = 64 * 1024;
/// What the median of a snapshot after ten changes may be.
const SNAPSHOT: Duration = Duration::from_millis(50);

fn main() -> Result<ExitCode> {
    let mut files = Vec::new();
    for word in std::env::args().skip(1) {
        files.push(word.parse().with_context(|| format!("{word} is no number of files"))?);
    }
    if files.is_empty() {
        files.extend(FILES);
    }
    let mut within = true;
    for files in files {
        within &= measure(files)?;
    }
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(files: usize) -> Result<bool> {
    let tree = LargeTree::new(files)?;
    println!("{files} files");
    let time = |what: &str, command: &mut Command| -> Result<Duration> {
        let begun = Instant::now();
        run(command)?;
        let took = begun.elapsed();
        print(what, &[took], None);
        Ok(took)
    };
    run(&mut tree.git(&["init", "--quiet"]))?;
    time("  git add", &mut tree.git(&["add", "."]))?;
    run(&mut tree.git(&["commit", "--quiet", "--message", "all"]))?;
    let copy = tree.beside("copy");
    time("  cp -a", Command::new("cp").arg("-a").arg(tree.path()).arg(&copy))?;
    fs::remove_dir_all(copy)?;
    run(&mut tree.selvedge(&["init"]))?;
    time("  import", &mut tree.selvedge(&["import"]))?;
    time("  import again", &mut tree.selvedge(&["import"]))?;
    let worktree = tree.beside("worktree");
    time("  git worktree add", tree.git(&["worktree", "add", "--quiet", "--detach"]).arg(&worktree))?;
    run(tree.git(&["worktree", "remove", "--force"]).arg(&worktree))?;
    let created = create(&tree)?;
    let status = first_status(&tree)?;
    let snapshot = snapshots(&tree)?;
    mounts(&tree)?;
    Ok(created && status && snapshot)
}

/// Prints the median and the longest. Whether the median is within `limit`.
fn print(what: &str, times: &[Duration], limit: Option<Duration>) -> bool {
    let mut times = times.to_vec();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let longest = times.last().copied().unwrap_or_default();
    let late = limit.is_some_and(|limit| median > limit);
    let verdict = if late { "  TOO SLOW" } else { "" };
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{what:<40} median {:9.1} ms   longest {:9.1} ms{verdict}", millis(median), millis(longest));
    !late
}

/// Times `thread create`, and what it adds to the disk.
fn create(tree: &LargeTree) -> Result<bool> {
    let before = disk_use(&tree.path().join(".selvedge"))?;
    let mut times = Vec::new();
    for number in 0..TIMES {
        let begun = Instant::now();
        run(&mut tree.selvedge(&["thread", "create", &format!("t{number}")]))?;
        times.push(begun.elapsed());
    }
    let each = disk_use(&tree.path().join(".selvedge"))?.saturating_sub(before) / TIMES as u64;
    let quick = print("  thread create", &times, Some(CREATE));
    let small = each < THREAD_BYTES;
    println!("  disk for a thread{:>32} bytes{}", each, if small { "" } else { "  TOO LARGE" });
    Ok(quick && small)
}

/// The first `git status` in a new thread reads nothing that the second does not: nothing was touched.
fn first_status(tree: &LargeTree) -> Result<bool> {
    let (mut first, mut second, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..3 {
        let name = format!("t{number}");
        let mounted: serde_json::Value = serde_json::from_str(&tree.mount(&name, &name)?)?;
        let worker = mounted["worker_pid"].as_u64().context("the mount has no worker")?;
        for times in [&mut first, &mut second] {
            let begun = Instant::now();
            let said = run(&mut tree.git_in(&tree.beside(&name), &["status", "--porcelain"]))?;
            times.push(begun.elapsed());
            ensure!(said.is_empty(), "a new thread is not clean: {said}");
        }
        resident.push(resident_of(u32::try_from(worker)?)? >> 10);
        run(&mut tree.selvedge(&["unmount", &name]))?;
    }
    resident.sort_unstable();
    println!("  memory of its worker then{:>23} MiB", resident[1]);
    print("  git status, first in a new mount", &first, None);
    print("  git status, second", &second, None);
    let mut host = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        run(&mut tree.git(&["status", "--porcelain"]))?;
        host.push(begun.elapsed());
    }
    print("  git status in the imported directory", &host, None);
    Ok(true)
}

/// Snapshots of a mounted thread, each after ten changes.
fn snapshots(tree: &LargeTree) -> Result<bool> {
    tree.mount("t3", "t3")?;
    let mut times = Vec::new();
    for round in 0..TIMES {
        for number in 0..10 {
            fs::write(tree.beside("t3").join(format!("d0/f{number}")), format!("changed {round}\n"))?;
        }
        let begun = Instant::now();
        run(&mut tree.selvedge(&["snapshot", "t3"]))?;
        times.push(begun.elapsed());
    }
    let mut compared = Vec::new();
    for _ in 0..TIMES {
        fs::write(tree.beside("t3").join("d0/f0"), "changed again\n")?;
        let begun = Instant::now();
        let said = run(&mut tree.selvedge(&["status", "t3"]))?;
        compared.push(begun.elapsed());
        ensure!(said.contains("d0/f0"), "a change is not told: {said}");
    }
    run(&mut tree.selvedge(&["unmount", "t3"]))?;
    print("  selvedge status, one change, mounted", &compared, None);
    Ok(print("  snapshot after 10 changes, mounted", &times, Some(SNAPSHOT)))
}

/// A mount, the first read in it, and its end, with the service up.
fn mounts(tree: &LargeTree) -> Result<()> {
    run(&mut tree.selvedge(&["service", "start"]))?;
    let (mut times, mut listed) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let begun = Instant::now();
        tree.mount("t4", "t4")?;
        ensure!(fs::read(tree.beside("t4").join("d0/f7"))? == b"file 7\n");
        run(&mut tree.selvedge(&["unmount", "t4"]))?;
        times.push(begun.elapsed());
    }
    for _ in 0..TIMES {
        tree.mount("t4", "t4")?;
        let begun = Instant::now();
        let said = run(Command::new("ls").arg("-l").arg(tree.beside("t4").join("d0")))?;
        listed.push(begun.elapsed());
        ensure!(said.contains(" f7\n"), "a name is not listed");
        run(&mut tree.selvedge(&["unmount", "t4"]))?;
    }
    print("  mount, first read, unmount", &times, None);
    print("  first ls -l of a directory, mounted", &listed, None);
    Ok(())
}

/// Bytes of the disk that a directory takes.
fn disk_use(directory: &Path) -> Result<u64> {
    let said = run(Command::new("du").args(["--summarize", "--block-size=1"]).arg(directory))?;
    let bytes = said.split_ascii_whitespace().next().context("du said nothing")?;
    bytes.parse().with_context(|| format!("du said {said}"))
}
