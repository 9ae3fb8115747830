//! What a server holds in memory after it has served every name: it is part of the pause when it dies.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::super::row::{Goal, Row, Unit};
use super::super::scene::Scene;
use super::super::subject::Subject;
use super::super::tree::{small_files, walk};

pub(super) fn scene(name: &'static str, row: &'static str, count: usize, most: u32) -> Scene {
    let rows = vec![
        Row::value(row, Unit::Bytes, move |place| {
            let seen = walk(place.root)?;
            ensure!(seen >= count, "only {seen} entries");
            let mut bytes = 0.0;
            for server in place.stage.servers() {
                bytes += resident(server)?;
            }
            Ok(bytes)
        })
        .applies(Subject::is_served)
        .at_most(1)
        .must(Goal::AtMost(f64::from(most))),
    ];
    Scene { name, tree: Box::new(move |root: &Path| small_files(root, count)), rows }
}

/// Memory of a process, in bytes.
fn resident(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u32 = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).context("no VmRSS")?;
    Ok(f64::from(kib) * 1024.0)
}
