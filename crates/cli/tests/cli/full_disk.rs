//! A disk without any room left: what needs none goes on, what needs some says so, and deleting makes room.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::sandbox::{Sandbox, finish};

/// A small ext4 file system on a loop device.
struct Disk {
    // Before the directory that holds its image and its mountpoint.
    place: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Disk {
    fn new(mebibytes: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (image, place) = (scratch.path().join("image"), scratch.path().join("disk"));
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        fs::create_dir(&place).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        // Without blocks that only root may use: these tests are root.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        // The loop device goes with the mount.
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &place]));
        Self { place, _scratch: scratch }
    }

    /// Takes every block that there is.
    fn fill(&self) -> PathBuf {
        let filler = self.place.join("filler");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).and_then(|()| file.sync_data()).is_ok() {}
        }
        assert!(fs::write(self.place.join("more"), "x").is_err(), "there is room left");
        let _ = fs::remove_file(self.place.join("more"));
        filler
    }

    fn remount(&self, option: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{option}")]).arg(&self.place);
        assert!(command.status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a test that fails may still have files open on it.
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// A repository on `disk` with a thread `main` of two files.
fn repository(sandbox: &Sandbox, disk: &Disk) -> PathBuf {
    let repo = disk.place.join("repo");
    fs::create_dir(&repo).unwrap();
    fs::write(repo.join("small"), "small\n").unwrap();
    fs::write(repo.join("large"), vec![b'l'; 2 << 20]).unwrap();
    run(sandbox, &repo, &["init"]).ok();
    run(sandbox, &repo, &["import"]).ok();
    repo
}

fn run(sandbox: &Sandbox, repo: &Path, words: &[&str]) -> crate::sandbox::Outcome {
    finish(sandbox.command().current_dir(repo).args(words))
}

fn mount(sandbox: &Sandbox, repo: &Path, options: &[&str]) -> crate::sandbox::Held {
    let mut command = sandbox.command();
    command.current_dir(repo).args(["--json", "mount", "main"]).arg(sandbox.path("m"));
    command.arg("--foreground").args(options);
    crate::sandbox::Held::start(command).unwrap_or_else(|outcome| panic!("no mount: {outcome:?}"))
}

#[test]
fn a_thread_on_a_full_disk_is_mounted_read_and_deleted_from() {
    let (sandbox, disk) = (Sandbox::empty(), Disk::new(40));
    let repo = repository(&sandbox, &disk);
    // With changes, without any, and with a worker that had no orderly end.
    for round in ["changed", "again", "killed"] {
        let held = mount(&sandbox, &repo, &["--on-crash", "unmount"]);
        fs::write(sandbox.path("m").join(round), vec![b'r'; 1 << 20]).unwrap();
        if round == "killed" {
            crate::sandbox::signal(held.worker(), Signal::KILL);
            assert_eq!(held.end().code(), 1);
        } else {
            held.stop(Signal::TERM).ok();
        }
        let filler = disk.fill();
        run(&sandbox, &repo, &["thread", "list"]).ok();
        run(&sandbox, &repo, &["export", "main", sandbox.path("out").to_str().unwrap()]).ok();
        fs::remove_dir_all(sandbox.path("out")).unwrap();
        let held = mount(&sandbox, &repo, &["--read-only"]);
        assert_eq!(fs::read(sandbox.path("m/small")).unwrap(), b"small\n");
        held.stop(Signal::TERM).ok();
        let held = mount(&sandbox, &repo, &[]);
        assert_eq!(fs::read(sandbox.path("m").join(round)).unwrap(), vec![b'r'; 1 << 20]);
        fs::remove_file(sandbox.path("m").join(round)).unwrap();
        assert!(!sandbox.path("m").join(round).exists());
        held.stop(Signal::TERM).ok();
        fs::remove_file(filler).unwrap();
    }
    let held = mount(&sandbox, &repo, &[]);
    assert_eq!(fs::read_dir(sandbox.path("m")).unwrap().count(), 2);
    held.stop(Signal::TERM).ok();
}

#[test]
fn an_application_on_a_full_disk_gets_enospc_and_an_import_says_so() {
    let (sandbox, disk) = (Sandbox::empty(), Disk::new(40));
    let repo = repository(&sandbox, &disk);
    let held = mount(&sandbox, &repo, &[]);
    fs::write(sandbox.path("m/mine"), "mine").unwrap();
    disk.fill();
    let refused = fs::write(sandbox.path("m/large"), vec![b'n'; 4 << 20]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    held.stop(Signal::TERM).ok();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("new"), vec![b'n'; 3 << 20]).unwrap();
    let words = ["import", "--thread", "new", source.to_str().unwrap()];
    run(&sandbox, &repo, &words).fails(1).saying("No space left").saying("hint: make room");
    run(&sandbox, &repo, &["thread", "show", "new"]).fails(3);
    fs::remove_file(disk.place.join("filler")).unwrap();
    run(&sandbox, &repo, &words).ok();
}

#[test]
fn a_read_only_disk_is_refused_as_such_and_opens_again() {
    let (sandbox, disk) = (Sandbox::empty(), Disk::new(40));
    let repo = repository(&sandbox, &disk);
    disk.remount("ro");
    let out = sandbox.path("out");
    for words in [
        &["thread", "list"][..],
        &["import", "--thread", "new"],
        &["export", "main", out.to_str().unwrap()],
        &["mount", "main", "m", "--foreground"],
        &["mount", "main", "m", "--foreground", "--read-only"],
    ] {
        run(&sandbox, &repo, words).fails(5).saying("Read-only file system").saying("hint: ");
    }
    assert!(!out.exists());
    disk.remount("rw");
    mount(&sandbox, &repo, &[]).stop(Signal::TERM).ok();
}
