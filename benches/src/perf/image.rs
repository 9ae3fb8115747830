//! A fresh file system to measure on: an old one makes creation ten times slower, and differently so at every run.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// MiB of memory that no measured operation needs more of.
const WARM: usize = 256;

/// An ext4 file system in a file, on a loop device. It goes when the value does.
#[derive(Debug)]
pub(crate) struct Image {
    file: PathBuf,
    root: PathBuf,
    device: Option<String>,
    mounted: bool,
}

impl Image {
    /// Makes one of so many GiB below `dir`, without anything that the kernel would go on making in the background, or that
    /// whoever writes to a block first would wait for.
    pub(crate) fn make(dir: &Path, gib: u64) -> Result<Self> {
        let (file, root) = (dir.join("image"), dir.join("disk"));
        fs::create_dir_all(&root)?;
        fill(&file, gib)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
            .arg(&file))?;
        // Past the page cache of the file beneath, where the disk lets us: else a cold read would find it warm there.
        let attach =
            |more: &[&str]| run(Command::new("losetup").args(more).args(["-f", "--show"]).arg(&file));
        let device = attach(&["--direct-io=on"]).or_else(|_| attach(&[]))?.trim().to_owned();
        let mut image = Self { file, root, device: Some(device.clone()), mounted: false };
        run(Command::new("mount").args(["-t", "ext4", &device]).arg(&image.root))?;
        image.mounted = true;
        Ok(image)
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes in use, once everything is on it.
    pub(crate) fn used(&self) -> Result<u64> {
        let root = File::open(&self.root)?;
        rustix::fs::syncfs(&root)?;
        let disk = rustix::fs::fstatvfs(&root)?;
        Ok((disk.f_blocks - disk.f_bfree) * disk.f_frsize)
    }

    /// Has the kernel use memory for the contents of a file, and give it up again: what was not in use for seconds a virtual
    /// machine may have given back to whoever runs it, and gets it anew at ten times the cost of using it.
    pub(crate) fn warm_memory(&self) -> Result<()> {
        let path = self.root.join("warm");
        let mut file = File::create_new(&path)?;
        fs::remove_file(&path)?;
        let block = vec![1; 1 << 20];
        for _ in 0..WARM {
            file.write_all(&block)?;
        }
        Ok(())
    }

    /// Takes it away.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.detach()
    }

    fn detach(&mut self) -> Result<()> {
        if self.mounted {
            run(Command::new("umount").arg(&self.root)).context("the image is still in use")?;
            self.mounted = false;
        }
        if let Some(device) = self.device.take() {
            run(Command::new("losetup").arg("-d").arg(&device))?;
            fs::remove_file(&self.file)?;
        }
        Ok(())
    }
}

/// Makes a file of so many GiB that has all of its blocks: the disk beneath gives a file, and what a virtual disk lies on gives that,
/// room at the first write to it, which takes four times as long.
fn fill(file: &Path, gib: u64) -> Result<()> {
    let mut of = OsString::from("of=");
    of.push(file);
    let count = format!("count={}", gib << 8);
    let write = |flags: &str| {
        run(Command::new("dd").args(["if=/dev/zero", "bs=4M", &count, "status=none", flags]).arg(&of))
    };
    write("oflag=direct").or_else(|_| write("conv=fsync")).map(drop)
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("{error:#}");
        }
    }
}
