//! An archive is unpacked, and the result compared with what was packed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Load;
use crate::random::Random;

/// What was packed, beside the mount.
fn packed(dir: &Path) -> PathBuf {
    dir.parent().unwrap().join("packed")
}

fn run_program(program: &str, dir: &Path, words: &[&str]) {
    let output = Command::new(program).current_dir(dir).args(words).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{program} {words:?}: {output:?}");
}

pub(crate) fn prepare(dir: &Path) {
    let packed = packed(dir);
    let mut random = Random::new(99);
    for number in 0..300 {
        let directory = packed.join(format!("tree/d{}/e{}", number % 5, number % 3));
        fs::create_dir_all(&directory).unwrap();
        let length = [random.below(2000), random.below(60_000)][usize::from(number % 10 == 0)];
        let path = directory.join(format!("f{number}"));
        fs::write(&path, random.bytes(length)).unwrap();
        match number % 20 {
            7 => symlink("../somewhere", directory.join(format!("link{number}"))).unwrap(),
            8 => fs::hard_link(path, directory.join(format!("other{number}"))).unwrap(),
            _ => {}
        }
    }
    run_program("tar", &packed, &["cf", "archive", "tree"]);
}

pub(crate) fn run(load: &mut Load<'_>) {
    let packed = packed(load.dir);
    let place = load.dir.join(format!("unpacked{}", load.number));
    while load.goes_on() {
        fs::create_dir(&place).unwrap();
        run_program("tar", &place, &["xf", packed.join("archive").to_str().unwrap()]);
        load.goes_on();
        run_program(
            "diff",
            &packed,
            &["-r", "--no-dereference", "tree", place.join("tree").to_str().unwrap()],
        );
        load.goes_on();
        fs::remove_dir_all(&place).unwrap();
    }
}
