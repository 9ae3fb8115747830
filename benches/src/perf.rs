//! Selvedge beside the host's directory and its peers, in one run.
//!
//! A [`Scene`](scene::Scene) is a tree and the [`Row`](row::Row)s that are measured on it. Each subject has the tree
//! before it in its own way ([`Stage`](stage::Stage)), all of them on one fresh file system; the subjects take turns
//! at every repetition, so that what else the machine does meets all of them alike.

mod image;
mod machine;
mod measure;
mod options;
mod report;
mod row;
mod scene;
mod scenes;
mod stage;
mod subject;
mod tree;

pub use options::Options;

use std::fs;

use anyhow::Result;

use image::Image;
use machine::Machine;
use measure::Results;
use report::Summary;

/// Measures what `options` ask for, writes the summary and the tables.
///
/// # Errors
/// When nothing can be measured at all: no file system for it, no programs. A row that fails for a subject is a result.
pub fn run(options: &Options) -> Result<()> {
    let machine = Machine::look(&options.dir)?;
    println!("{machine}");
    let mut results = Results::default();
    for scene in scenes::all(options) {
        if !scene.rows.iter().any(|row| options.wants(row.name)) {
            continue;
        }
        let image = Image::make(&options.dir, options.image_gib)?;
        scene.measure(&image, options, &mut results)?;
        image.remove()?;
    }
    let summary = Summary::of(machine, options, &results);
    fs::write(&options.summary, serde_json::to_string_pretty(&summary)? + "\n")?;
    println!("{}", summary.table());
    if let Some(document) = &options.document {
        report::replace(document, &summary.section())?;
    }
    Ok(())
}
