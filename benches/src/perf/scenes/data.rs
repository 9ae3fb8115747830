//! Bytes of a few large files.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::super::options::Options;
use super::super::row::{Goal, Place, Row};
use super::super::scene::Scene;
use super::super::tree::{Numbers, block, check_blocks, write_blocks};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// The file of the tree.
const BASE: &str = "unchanged";
/// Writers side by side.
const WRITERS: usize = 4;

pub(super) fn scene(options: &Options) -> Scene {
    // MiB of a file, pages of one that is written in pages, and random reads.
    let (large, pages, reads) = (options.scaled(128), options.scaled(16_384), options.scaled(16_384));
    let blocks = large as u64;
    let rows = vec![
        Row::time("sequential write, 1 MiB blocks, fdatasync", move |place| {
            let file = File::create_new(changed(place))?;
            write_blocks(&file, blocks, MIB)?;
            Ok(file.sync_data()?)
        })
        .after(move |place| check_blocks(&changed(place), blocks, MIB))
        .must(Goal::Ratio(0.90)),
        Row::time("write, 4 KiB blocks, cached", move |place| {
            write_blocks(&File::create_new(place.root.join("pages"))?, pages as u64, PAGE)
        })
        .after(move |place| {
            let path = place.root.join("pages");
            check_blocks(&path, pages as u64, PAGE)?;
            Ok(fs::remove_file(path)?)
        })
        .must(Goal::Ratio(0.90)),
        Row::time("4 writers, 64 KiB blocks, cached", move |place| {
            each_writer(place, &|path| write_blocks(&File::create_new(path)?, 4 * blocks, 16 * PAGE))
        })
        .after(move |place| {
            each_writer(place, &|path| {
                check_blocks(path, 4 * blocks, 16 * PAGE)?;
                Ok(fs::remove_file(path)?)
            })
        })
        .must(Goal::Ratio(0.95)),
        Row::time("sequential read, second pass", |place| read_through(&place.root.join(BASE)))
            .before(move |place| check_blocks(&place.root.join(BASE), blocks, MIB))
            .must(Goal::Ratio(0.85)),
        Row::time("random 4 KiB read, warm, unchanged", move |place| {
            read_at_random(&place.root.join(BASE), blocks, reads)
        })
        .before(|place| read_through(&place.root.join(BASE)))
        .must(Goal::Ratio(0.85)),
        Row::time("random 4 KiB read, warm, changed", move |place| {
            read_at_random(&changed(place), blocks, reads)
        })
        .before(|place| read_through(&changed(place)))
        .must(Goal::Ratio(0.85)),
        Row::time("sequential read, cold, unchanged", |place| read_through(&place.root.join(BASE)))
            .cold()
            .must(Goal::Ratio(0.55)),
        Row::time("sequential read, cold, changed", |place| read_through(&changed(place)))
            .cold()
            .after(|place| Ok(fs::remove_file(changed(place))?))
            .must(Goal::Ratio(0.85)),
    ];
    let tree = move |root: &Path| write_blocks(&File::create_new(root.join(BASE))?, blocks, MIB);
    Scene { name: "bytes of large files", tree: Box::new(tree), rows }
}

fn changed(place: &Place<'_>) -> std::path::PathBuf {
    place.root.join(format!("changed-{}", place.turn))
}

fn each_writer(place: &Place<'_>, work: &(dyn Fn(&Path) -> Result<()> + Sync)) -> Result<()> {
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let path = place.root.join(format!("writer-{number}"));
                scope.spawn(move || work(&path))
            })
            .collect();
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(())
    })
}

fn read_through(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; MIB];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Reads pages of a file that [`write_blocks`] wrote, and looks at the first bytes of the block's in each.
fn read_at_random(path: &Path, blocks: u64, reads: usize) -> Result<()> {
    let file = File::open(path)?;
    let mut numbers = Numbers::new(blocks);
    let mut page = vec![0; PAGE];
    let pages = blocks * (MIB / PAGE) as u64;
    for _ in 0..reads {
        let at = numbers.below(pages);
        file.read_exact_at(&mut page, at * PAGE as u64)?;
        if at.is_multiple_of((MIB / PAGE) as u64) {
            ensure!(page[..8] == block(at / (MIB / PAGE) as u64, 8)[..], "{} differs", path.display());
        }
    }
    Ok(())
}
