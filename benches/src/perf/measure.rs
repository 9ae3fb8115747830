//! What was measured.

use std::collections::BTreeMap;

use super::row::{Goal, Row, Unit};
use super::subject::Subject;
use crate::Placement;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) placement: Placement,
    pub(crate) unit: Unit,
    pub(crate) cold: bool,
    pub(crate) must: Option<Goal>,
    pub(crate) by_subject: BTreeMap<Subject, Outcome>,
}

/// What became of one row for one subject.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) values: Vec<f64>,
    /// Why there are fewer than there should be.
    pub(crate) error: Option<String>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) lines: Vec<Line>,
}

impl Results {
    pub(crate) fn add(&mut self, row: &Row, placement: Placement, subject: Subject, value: f64) {
        println!("  {:44} {:9} {:15} {value:.6}", row.name, placement.name(), subject.name());
        self.outcome(row, placement, subject).values.push(value);
    }

    pub(crate) fn fail(&mut self, row: &Row, placement: Placement, subject: Subject, error: &anyhow::Error) {
        println!("  {:44} {:9} {:15} failed: {error:#}", row.name, placement.name(), subject.name());
        self.outcome(row, placement, subject).error = Some(format!("{error:#}"));
    }

    fn outcome(&mut self, row: &Row, placement: Placement, subject: Subject) -> &mut Outcome {
        let same = |line: &Line| line.name == row.name && line.placement == placement;
        let at = self.lines.iter().position(same).unwrap_or_else(|| {
            // A goal for both sides on one CPU is not one for what the scheduler makes of them.
            let here = (placement == Placement::OneCpu) == row.metadata;
            self.lines.push(Line {
                name: row.name,
                placement,
                unit: row.unit(),
                cold: row.cold,
                must: row.must.filter(|_| here),
                by_subject: BTreeMap::new(),
            });
            self.lines.len() - 1
        });
        self.lines[at].by_subject.entry(subject).or_default()
    }
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// How far values lie from the one in the middle: the median of the distances.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    median(&distances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_far_off_moves_neither_middle_nor_spread() {
        let values = [3.0, 1.0, 2.0, 4.0, 1000.0];
        assert_eq!((median(&values).unwrap(), spread(&values).unwrap()), (3.0, 1.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!((median(&[]), spread(&[])), (None, None));
    }
}
