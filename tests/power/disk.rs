//! A disk whose power can be cut: an ext4 image on an XFS file system, which clones files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// A file system image, mounted; the loop device goes with the mount.
#[derive(Debug)]
struct Loop {
    at: PathBuf,
}

impl Loop {
    fn mount(image: &Path, at: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-o", &format!("loop,{options}")]).args([image, &at]));
        Self { at }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.at).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // A test that fails may still have something open.
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
            assert!(thread_panics(), "{} was still in use", self.at.display());
        }
    }
}

fn thread_panics() -> bool {
    std::thread::panicking()
}

/// A machine with a disk.
#[derive(Debug)]
pub(crate) struct Machine {
    // Before what it lies on.
    disk: Loop,
    below: Loop,
    _scratch: TempDir,
}

/// What a disk held when the power went.
#[derive(Debug)]
pub(crate) struct Power {
    image: PathBuf,
}

/// A disk in a machine that runs again.
#[derive(Debug)]
pub(crate) struct Restored {
    disk: Loop,
    image: PathBuf,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// One whose file system writes what it has to write and nothing else: not the data of files that replace others, nor any
    /// data before the journal says where it is (ext4(5)).
    pub(crate) fn careless() -> Self {
        Self::with(",data=writeback,noauto_da_alloc")
    }

    fn with(options: &str) -> Self {
        let scratch = tempfile::Builder::new().prefix("selvedge-power-").tempdir().unwrap();
        let outer = scratch.path().join("xfs.img");
        File::create(&outer).unwrap().set_len(8 << 30).unwrap();
        run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&outer));
        let below = Loop::mount(&outer, scratch.path().join("below"), "rw");
        let image = below.at.join("disk.img");
        File::create(&image).unwrap().set_len(1 << 30).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        // Frequent commits of the journal make the cuts differ.
        let disk = Loop::mount(&image, scratch.path().join("disk"), &format!("commit=1{options}"));
        Self { disk, below, _scratch: scratch }
    }

    /// Where the disk is mounted.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk.at
    }

    /// What the disk holds at this instant.
    pub(crate) fn cut(&self, number: usize) -> Power {
        let image = self.below.at.join(format!("cut{number}.img"));
        clone(&self.below.at.join("disk.img"), &image);
        Power { image }
    }
}

impl Power {
    /// Mounts a copy, as often as one likes; the file system finds its journal as the cut left it.
    pub(crate) fn restore(&self) -> Restored {
        let image = self.image.with_extension("restored");
        clone(&self.image, &image);
        let disk = Loop::mount(&image, self.image.with_extension("d"), "rw");
        Restored { disk, image }
    }
}

impl Restored {
    pub(crate) fn path(&self) -> &Path {
        &self.disk.at
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.image);
    }
}

fn clone(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    rustix::fs::ioctl_ficlone(&to, &from).unwrap();
}
