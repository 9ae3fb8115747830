//! One thing that is measured.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::image::Image;
use super::stage::Stage;
use super::subject::Subject;

/// Where a row does its work: one subject at one repetition.
pub(crate) struct Place<'a> {
    /// The tree, as programs see it.
    pub(crate) root: &'a Path,
    /// A number that no other repetition on this tree has.
    pub(crate) turn: usize,
    pub(crate) stage: &'a Stage,
    pub(crate) image: &'a Image,
}

/// Work on one subject.
pub(crate) type Step = Box<dyn Fn(&Place<'_>) -> Result<()>>;

/// A question to one subject.
pub(crate) type Question = Box<dyn Fn(&Place<'_>) -> Result<f64>>;

/// What a row tells.
pub(crate) enum Measure {
    /// How long this takes.
    Time(Step),
    /// What this says.
    Value(Unit, Question),
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
}

/// What a row must reach, and what is hoped for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// This share of the host's speed at least.
    Ratio(f64),
    /// Not more than this, in the row's unit.
    AtMost(f64),
}

/// One thing that is measured.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) measure: Measure,
    pub(crate) must: Option<Goal>,
    /// Measured with application and server on one CPU too, where the goal is to be met.
    pub(crate) metadata: bool,
    /// The kernel's caches are dropped right before.
    pub(crate) cold: bool,
    /// On a tree to which nothing has been done yet.
    pub(crate) fresh: bool,
    /// Whom it is measured of.
    pub(crate) applies: fn(Subject) -> bool,
    /// Not more often than this.
    pub(crate) at_most: usize,
    /// What has to be there, made without being measured.
    pub(crate) before: Option<Step>,
    /// Whether it is right, looked at without being measured.
    pub(crate) after: Option<Step>,
}

impl Row {
    fn new(name: &'static str, measure: Measure) -> Self {
        Self {
            name,
            measure,
            must: None,
            metadata: false,
            cold: false,
            fresh: false,
            applies: |_| true,
            at_most: usize::MAX,
            before: None,
            after: None,
        }
    }

    /// How long `step` takes.
    pub(crate) fn time(name: &'static str, step: impl Fn(&Place<'_>) -> Result<()> + 'static) -> Self {
        Self::new(name, Measure::Time(Box::new(step)))
    }

    /// What `value` says.
    pub(crate) fn value(
        name: &'static str,
        unit: Unit,
        value: impl Fn(&Place<'_>) -> Result<f64> + 'static,
    ) -> Self {
        Self::new(name, Measure::Value(unit, Box::new(value)))
    }

    pub(crate) fn must(self, goal: Goal) -> Self {
        Self { must: Some(goal), ..self }
    }

    pub(crate) fn metadata(self) -> Self {
        Self { metadata: true, ..self }
    }

    pub(crate) fn cold(self) -> Self {
        Self { cold: true, ..self }
    }

    pub(crate) fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }

    pub(crate) fn applies(self, applies: fn(Subject) -> bool) -> Self {
        Self { applies, ..self }
    }

    pub(crate) fn at_most(self, times: usize) -> Self {
        Self { at_most: times, ..self }
    }

    pub(crate) fn before(self, step: impl Fn(&Place<'_>) -> Result<()> + 'static) -> Self {
        Self { before: Some(Box::new(step)), ..self }
    }

    pub(crate) fn after(self, step: impl Fn(&Place<'_>) -> Result<()> + 'static) -> Self {
        Self { after: Some(Box::new(step)), ..self }
    }

    pub(crate) const fn unit(&self) -> Unit {
        match &self.measure {
            Measure::Time(_) => Unit::Seconds,
            Measure::Value(unit, _) => *unit,
        }
    }
}
