//! Names that come and go in one directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::super::options::Options;
use super::super::row::{Goal, Place, Row};
use super::super::scene::Scene;

/// What each file holds.
const CONTENT: [u8; 1024] = [b'x'; 1024];

pub(super) fn scene(options: &Options) -> Scene {
    let count = options.scaled(10_000);
    let rows = vec![
        Row::time("create 10k small files", move |place| {
            for number in 0..count {
                File::create_new(path(place, "a", number))?.write_all(&CONTENT)?;
            }
            Ok(())
        })
        .before(|place| Ok(fs::create_dir(directory(place))?))
        .after(move |place| {
            for number in 0..count {
                ensure!(fs::read(path(place, "a", number))? == CONTENT, "file {number} differs");
            }
            Ok(())
        })
        .metadata()
        .must(Goal::Ratio(0.60)),
        Row::time("readdir 10k, first", move |place| list(place, count)).metadata().must(Goal::Ratio(0.80)),
        Row::time("readdir 10k, again", move |place| list(place, count))
            .before(move |place| list(place, count))
            .metadata()
            .must(Goal::Ratio(0.80)),
        Row::time("stat 10k, warm", move |place| stat(place, count))
            .before(move |place| stat(place, count))
            .metadata()
            .must(Goal::Ratio(0.80)),
        Row::time("rename 10k", move |place| {
            for number in 0..count {
                fs::rename(path(place, "a", number), path(place, "b", number))?;
            }
            Ok(())
        })
        .after(move |place| list(place, count))
        .metadata()
        .must(Goal::Ratio(0.45)),
        Row::time("unlink 10k", move |place| {
            for number in 0..count {
                fs::remove_file(path(place, "b", number))?;
            }
            Ok(())
        })
        .after(|place| Ok(fs::remove_dir(directory(place))?))
        .metadata()
        .must(Goal::Ratio(0.45)),
    ];
    let tree = |root: &Path| Ok(fs::write(root.join("one"), "one\n")?);
    Scene { name: "names that come and go", tree: Box::new(tree), rows }
}

fn directory(place: &Place<'_>) -> PathBuf {
    place.root.join(format!("turn-{}", place.turn))
}

fn path(place: &Place<'_>, kind: &str, number: usize) -> PathBuf {
    directory(place).join(format!("{kind}{number}"))
}

fn list(place: &Place<'_>, count: usize) -> Result<()> {
    let mut seen = 0;
    for entry in fs::read_dir(directory(place))? {
        entry?;
        seen += 1;
    }
    ensure!(seen == count, "{seen} of {count} names are listed");
    Ok(())
}

fn stat(place: &Place<'_>, count: usize) -> Result<()> {
    for number in 0..count {
        ensure!(
            fs::symlink_metadata(path(place, "a", number))?.len() == CONTENT.len() as u64,
            "a wrong size"
        );
    }
    Ok(())
}
