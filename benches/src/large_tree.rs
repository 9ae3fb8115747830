//! A repository of a large tree, which is a git repository too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::programs::{built, run};

/// Files of a directory.
const PER_DIRECTORY: usize = 250;

/// A tree of small files in a temporary directory. What runs of ours ends, and everything is removed, when it is
/// dropped.
#[derive(Debug)]
pub struct LargeTree {
    dir: TempDir,
    selvedge: PathBuf,
}

impl LargeTree {
    /// A tree of so many files, each with content of its own, of which nothing knows yet.
    pub fn new(files: usize) -> Result<Self> {
        let tree = Self { dir: tempfile::tempdir()?, selvedge: built("selvedge")? };
        for number in 0..files {
            let directory = tree.path().join(format!("d{}", number / PER_DIRECTORY));
            if number % PER_DIRECTORY == 0 {
                fs::create_dir_all(&directory)?;
            }
            fs::write(directory.join(format!("f{number}")), format!("file {number}\n"))?;
        }
        Ok(tree)
    }

    /// The tree's directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// A directory beside the tree.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// git with these words in `directory`.
    pub fn git_in(&self, directory: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(directory);
        command.args(["-c", "user.name=Bench", "-c", "user.email=bench@example.invalid", "-c", "gc.auto=0"]);
        command.args(words);
        command
    }

    /// git with these words in the tree.
    pub fn git(&self, words: &[&str]) -> Command {
        self.git_in(&self.path(), words)
    }

    /// selvedge with these words in the tree, with a runtime directory of its own.
    pub fn selvedge(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.selvedge);
        command.current_dir(self.path()).args(words).env("SELVEDGE_RUNTIME_DIR", self.beside("run"));
        command.env_remove("SELVEDGE_REPO");
        command
    }

    /// Commits all of the tree to git.
    pub fn commit_to_git(&self) -> Result<()> {
        for words in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "--message", "all"]] {
            run(&mut self.git(words))?;
        }
        Ok(())
    }

    /// Mounts a thread in the background, on a directory beside the tree.
    pub fn mount(&self, thread: &str, place: &str) -> Result<String> {
        run(self.selvedge(&["--json", "mount", thread]).arg(self.beside(place)))
    }

    /// Ends the service, and so all mounts.
    pub fn stop(&self) -> Result<()> {
        run(&mut self.selvedge(&["service", "stop"])).map(drop)
    }
}

impl Drop for LargeTree {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}
