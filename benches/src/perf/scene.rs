//! A tree and what is measured on it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::image::Image;
use super::machine;
use super::measure::Results;
use super::options::Options;
use super::row::{Measure, Place, Row};
use super::stage::Stage;
use super::subject::Subject;
use crate::Placement;

/// Makes a tree in a directory.
pub(crate) type MakeTree = Box<dyn Fn(&Path) -> Result<()>>;

/// A tree and the rows that are measured on it, in their order: a row may use what the one before it has left.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Makes the tree, the same every time.
    pub(crate) tree: MakeTree,
    pub(crate) rows: Vec<Row>,
}

impl Scene {
    /// Measures all rows for all subjects.
    pub(crate) fn measure(&self, image: &Image, options: &Options, results: &mut Results) -> Result<()> {
        println!("scene {}", self.name);
        let mut subjects = options.subjects();
        subjects.retain(|subject| self.rows.iter().any(|row| (row.applies)(*subject)));
        // What is measured once takes no turns, and need not have the trees of all subjects on the disk at a time.
        let at_a_time = if self.rows.iter().all(|row| row.at_most <= 1) { 1 } else { subjects.len().max(1) };
        for together in subjects.chunks(at_a_time) {
            self.measure_in_turn(together, image, options, results)?;
        }
        Ok(())
    }

    fn measure_in_turn(
        &self,
        subjects: &[Subject],
        image: &Image,
        options: &Options,
        results: &mut Results,
    ) -> Result<()> {
        let mut stages = Vec::new();
        for &subject in subjects {
            match Stage::set(subject, image.root(), &self.tree) {
                Ok(stage) => stages.push(stage),
                Err(error) => {
                    for row in &self.rows {
                        results.fail(row, Placement::Scheduler, subject, &error);
                    }
                }
            }
        }
        machine::settle()?;
        for placement in Placement::ALL {
            for repeat in 0..options.repeats {
                let count = stages.len().max(1);
                for at in 0..stages.len() {
                    // Nobody is always the first after a pause.
                    let stage = &mut stages[(at + repeat) % count];
                    self.take_turn(stage, image, placement, repeat, results)?;
                }
            }
        }
        for stage in stages {
            if let Err(error) = stage.end() {
                eprintln!("{error:#}");
            }
        }
        Ok(())
    }

    fn take_turn(
        &self,
        stage: &mut Stage,
        image: &Image,
        placement: Placement,
        repeat: usize,
        results: &mut Results,
    ) -> Result<()> {
        let turn = repeat * Placement::ALL.len() + usize::from(placement == Placement::OneCpu);
        for row in &self.rows {
            let both = placement == Placement::Scheduler || row.metadata;
            if !both || !(row.applies)(stage.subject) || repeat >= row.at_most {
                continue;
            }
            if row.fresh
                && let Err(error) = stage.refresh()
            {
                results.fail(row, placement, stage.subject, &error);
                continue;
            }
            placement.apply_to(&stage.servers())?;
            let place = Place { root: stage.root(), turn, stage, image };
            match placement.run(|| one(row, &place))? {
                Ok(value) => results.add(row, placement, stage.subject, value),
                Err(error) => results.fail(row, placement, stage.subject, &error),
            }
        }
        Ok(())
    }
}

/// Measures a row once.
fn one(row: &Row, place: &Place<'_>) -> Result<f64> {
    if let Some(before) = &row.before {
        before(place).context("to prepare it")?;
    }
    if row.cold {
        rustix::fs::sync();
    }
    place.image.warm_memory()?;
    if row.cold {
        drop_caches()?;
    }
    let value = match &row.measure {
        Measure::Time(work) => {
            let begun = Instant::now();
            work(place)?;
            begun.elapsed().as_secs_f64()
        }
        Measure::Value(_, value) => value(place)?,
    };
    if let Some(after) = &row.after {
        after(place).context("to check it")?;
    }
    Ok(value)
}

/// Has the kernel forget file contents, names and attributes.
fn drop_caches() -> Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3\n").context("dropping the kernel's caches")
}
