//! git clones a repository of the host, checks the clone, and commits to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Load;
use crate::random::Random;

fn git(dir: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "gc.auto=0"])
        .args(words)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "git {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The repository to clone, beside the mount.
fn origin(dir: &Path) -> PathBuf {
    dir.parent().unwrap().join("origin")
}

pub(crate) fn prepare(dir: &Path) {
    let origin = origin(dir);
    fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "-q", "-b", "main"]);
    let mut random = Random::new(77);
    for number in 0..200 {
        let directory = origin.join(format!("d{}", number % 7));
        fs::create_dir_all(&directory).unwrap();
        let length = 1 + random.below(20_000);
        fs::write(directory.join(format!("f{number}")), random.bytes(length)).unwrap();
    }
    git(&origin, &["add", "."]);
    git(&origin, &["commit", "-qm", "first"]);
}

pub(crate) fn run(load: &mut Load<'_>) {
    let (from, to) = (origin(load.dir), load.dir.join("clone"));
    while load.goes_on() {
        git(load.dir, &["clone", "-q", "--no-hardlinks", from.to_str().unwrap(), "clone"]);
        load.goes_on();
        assert_eq!(git(&to, &["status", "--porcelain"]), "");
        load.goes_on();
        fs::write(to.join("d0/more"), load.random.bytes(5000)).unwrap();
        git(&to, &["add", "."]);
        load.goes_on();
        git(&to, &["commit", "-qm", "more"]);
        load.goes_on();
        git(&to, &["fsck", "--full", "--strict"]);
        load.goes_on();
        fs::remove_dir_all(&to).unwrap();
    }
}
