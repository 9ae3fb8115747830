//! A tree of small files that is looked at, by calls and by programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::super::options::Options;
use super::super::row::{Goal, Row};
use super::super::scene::Scene;
use super::super::tree::{check_small_files, small_files, small_path, walk};
use crate::run;

/// A word that no file has.
const ABSENT: &str = "sateen";

pub(super) fn scene(options: &Options) -> Scene {
    let count = options.scaled(10_000);
    let walked = move |root: &Path| -> Result<()> {
        let seen = walk(&sources(root))?;
        ensure!(
            seen == count + count.div_ceil(100),
            "{seen} entries instead of {count} and their directories"
        );
        Ok(())
    };
    let rows = vec![
        Row::time("tree walk, cold", move |place| walked(place.root))
            .cold()
            .metadata()
            .must(Goal::Ratio(0.40)),
        Row::time("tree walk, warm", move |place| walked(place.root))
            .before(move |place| walked(place.root))
            .metadata()
            .must(Goal::Ratio(0.80)),
        Row::time("stat, cold", move |place| {
            for number in 0..count {
                fs::symlink_metadata(small_path(&sources(place.root), number))?;
            }
            Ok(())
        })
        .cold()
        .metadata()
        .must(Goal::Ratio(0.20)),
        Row::time("open+read small files, first", move |place| read_all(place.root, count))
            .cold()
            .after(move |place| check_small_files(&sources(place.root), count))
            .metadata()
            .must(Goal::Ratio(0.20)),
        Row::time("open+read small files, again", move |place| read_all(place.root, count))
            .before(move |place| read_all(place.root, count))
            .metadata()
            .must(Goal::Ratio(0.30)),
        Row::time("git status, warm", |place| status(place.root))
            .before(|place| status(place.root))
            .metadata()
            .must(Goal::Ratio(0.80)),
        Row::time("rg, warm", |place| search(place.root))
            .before(|place| search(place.root))
            .metadata()
            .must(Goal::Ratio(0.50)),
    ];
    let tree = move |root: &Path| {
        small_files(&sources(root), count)?;
        // What git itself keeps is one file instead of many.
        for words in [
            &["init", "--quiet"][..],
            &["add", "src"],
            &["commit", "--quiet", "--message", "all"],
            &["repack", "-a", "-d", "--quiet"],
            &["prune-packed", "--quiet"],
        ] {
            run(git(root).args(words))?;
        }
        Ok(fs::write(root.join(".git/info/exclude"), ".selvedge\n")?)
    };
    Scene { name: "a tree of small files", tree: Box::new(tree), rows }
}

fn sources(root: &Path) -> PathBuf {
    root.join("src")
}

fn read_all(root: &Path, count: usize) -> Result<()> {
    let mut bytes = 0;
    for number in 0..count {
        bytes += fs::read(small_path(&sources(root), number))?.len();
    }
    ensure!(bytes > count * 1000, "only {bytes} bytes");
    Ok(())
}

fn git(root: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(["-c", "user.name=Bench", "-c", "user.email=bench@example.invalid"]);
    git.args(["-c", "gc.auto=0", "-c", "safe.directory=*"]);
    git
}

fn status(root: &Path) -> Result<()> {
    let said = run(git(root).args(["status", "--porcelain"]))?;
    ensure!(said.is_empty(), "git finds changes: {said:.200}");
    Ok(())
}

fn search(root: &Path) -> Result<()> {
    let found = Command::new("rg").args(["--no-ignore", "-e", ABSENT]).arg(sources(root)).output()?;
    ensure!(found.status.code() == Some(1), "rg found what is not there, or failed: {found:?}");
    Ok(())
}
