//! What a server holds in memory after it has served every name: it is part of the pause when it dies.

use std::path::Path;

use anyhow::ensure;

use super::super::row::{Goal, Row, Unit};
use super::super::scene::Scene;
use super::super::subject::Subject;
use super::super::tree::{small_files, walk};
use crate::resident;

pub(super) fn scene(name: &'static str, row: &'static str, count: usize, most: u32) -> Scene {
    let rows = vec![
        Row::value(row, Unit::Bytes, move |place| {
            let seen = walk(place.root)?;
            ensure!(seen >= count, "only {seen} entries");
            let mut bytes = 0.0;
            for server in place.stage.servers() {
                bytes += f64::from(resident(server)?) * 1024.0;
            }
            Ok(bytes)
        })
        .applies(Subject::is_served)
        .at_most(1)
        .must(Goal::AtMost(f64::from(most))),
    ];
    Scene { name, tree: Box::new(move |root: &Path| small_files(root, count)), rows }
}
