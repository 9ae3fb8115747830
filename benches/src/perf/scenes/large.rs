//! Changes of a large file: the first one, and many.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::options::Options;
use super::super::row::{Goal, Place, Row, Unit};
use super::super::scene::Scene;
use super::super::tree::{Numbers, block, write_blocks};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const FILE: &str = "large";
/// Each costs gigabytes.
const TIMES: usize = 3;

pub(super) fn scene(options: &Options) -> Scene {
    let blocks = options.scaled(1024) as u64;
    let rows = vec![
        Row::time("one byte changed in 1 GiB: time", |place| change(place.root))
            .after(move |place| check(place, blocks))
            .fresh()
            .at_most(TIMES)
            .must(Goal::AtMost(0.010)),
        Row::value("one byte changed in 1 GiB: disk", Unit::Bytes, |place| {
            let before = place.image.used()?;
            change(place.root)?;
            let more = place.image.used()?.saturating_sub(before);
            Ok(f64::from(u32::try_from(more)?))
        })
        .fresh()
        .at_most(TIMES)
        .must(Goal::AtMost(2.0 * 1024.0 * 1024.0)),
    ];
    let tree = move |root: &Path| write_blocks(&File::create_new(root.join(FILE))?, blocks, MIB);
    Scene { name: "a large file", tree: Box::new(tree), rows }
}

/// A file that is changed in one part of it, as a database is.
pub(super) fn used_much(options: &Options) -> Scene {
    // A quarter of the file, so that it is not written as a whole anyway.
    let blocks = options.scaled(64) as u64;
    let (pages, writes) = (blocks * (MIB / PAGE) as u64 / 4, options.scaled(16_384));
    let write = move |place: &Place<'_>| write_at_random(&place.root.join(FILE), pages, writes);
    let rows = vec![
        Row::time("random 4 KiB write into 64 MiB, unchanged before", write).fresh(),
        Row::time("random 4 KiB write into 64 MiB, changed much before", write)
            .before(move |place| {
                write(place)?;
                // What a server does about a file that it has seen used, it does within this time.
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            })
            .at_most(TIMES),
    ];
    let tree = move |root: &Path| write_blocks(&File::create_new(root.join(FILE))?, blocks, MIB);
    Scene { name: "a large file that is used much", tree: Box::new(tree), rows }
}

fn write_at_random(path: &Path, pages: u64, writes: usize) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut numbers = Numbers::new(pages);
    let page = vec![b'!'; PAGE];
    for _ in 0..writes {
        file.write_all_at(&page, numbers.below(pages) * PAGE as u64)?;
    }
    Ok(())
}

fn change(root: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).open(root.join(FILE))?;
    Ok(file.write_all_at(b"!", MIB as u64)?)
}

fn check(place: &Place<'_>, blocks: u64) -> Result<()> {
    let file = File::open(place.root.join(FILE))?;
    let mut read = vec![0; MIB];
    for at in [0, 1, blocks - 1] {
        file.read_exact_at(&mut read, at * MIB as u64)?;
        let mut expected = block(at, MIB);
        if at == 1 {
            expected[0] = b'!';
        }
        ensure!(read == expected, "block {at} differs");
    }
    ensure!(file.metadata()?.len() == blocks * MIB as u64, "the length changed");
    Ok(())
}
