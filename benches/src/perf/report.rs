//! The figures for machines and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::machine::Machine;
use super::measure::{Line, Outcome, Results, median, spread};
use super::options::Options;
use super::row::{Goal, Unit};
use super::subject::Subject;
use crate::Placement;

/// Where the generated part of a document begins and ends.
const BEGIN: &str = "<!-- what scripts/perf measured: begin -->";
const END: &str = "<!-- what scripts/perf measured: end -->";

/// Everything that was measured, as it is written to the summary.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    machine: Machine,
    repeats: usize,
    quick: bool,
    /// Whom the table compares with the host.
    #[serde(skip)]
    columns: Vec<Subject>,
    rows: Vec<SummaryRow>,
}

#[derive(Debug, Serialize)]
struct SummaryRow {
    name: &'static str,
    placement: Placement,
    unit: Unit,
    cold: bool,
    must: Option<Goal>,
    subjects: BTreeMap<&'static str, Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    median: Option<f64>,
    /// Median of the distances from the median.
    spread: Option<f64>,
    /// The host's median by this one: 1 is the host's speed.
    ratio: Option<f64>,
    values: Vec<f64>,
    error: Option<String>,
}

impl Summary {
    pub(crate) fn of(machine: Machine, options: &Options, results: &Results) -> Self {
        let wanted = results.lines.iter().filter(|line| options.wants(line.name));
        let rows = wanted.map(SummaryRow::of).collect();
        let columns = options.subjects().into_iter().filter(|subject| *subject != Subject::Host).collect();
        Self { machine, repeats: options.repeats, quick: options.quick, columns, rows }
    }

    /// The table: the host's figure, and the others' shares of its speed.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from("| row | CPU | host | must |");
        for subject in &self.columns {
            let _ = write!(text, " {} |", subject.name());
        }
        let _ = writeln!(text, "\n|---|---|---|---|{}", "---|".repeat(self.columns.len()));
        for row in &self.rows {
            row.write(&mut text, &self.columns);
        }
        text
    }

    /// What stands in the document between the marks.
    pub(crate) fn section(&self) -> String {
        let mut text = format!("{BEGIN}\n\n{}. Each row {} times.\n\n", self.machine, self.repeats);
        if self.quick {
            text.push_str(
                "**A trial run, everything a tenth as large: not to be compared with anything.**\n\n",
            );
        }
        if self.machine.is_busy() {
            text.push_str(
                "**The machine was busy with other work: the ratios say something, the times do not.**\n\n",
            );
        }
        let _ = write!(text, "{}\n{END}", self.table());
        text
    }
}

impl SummaryRow {
    fn of(line: &Line) -> Self {
        let host = line.by_subject.get(&Subject::Host).and_then(|outcome| median(&outcome.values));
        let figure = |outcome: &Outcome| {
            let middle = median(&outcome.values);
            Figure {
                median: middle,
                spread: spread(&outcome.values),
                ratio: host.zip(middle).map(|(host, middle)| host / middle),
                values: outcome.values.clone(),
                error: outcome.error.clone(),
            }
        };
        let by_subject = line.by_subject.iter();
        Self {
            name: line.name,
            placement: line.placement,
            unit: line.unit,
            cold: line.cold,
            must: line.must,
            subjects: by_subject.map(|(subject, outcome)| (subject.name(), figure(outcome))).collect(),
        }
    }

    fn write(&self, text: &mut String, columns: &[Subject]) {
        let must = match self.must {
            None => String::new(),
            Some(Goal::Ratio(ratio)) => ratio_text(ratio),
            Some(Goal::AtMost(most)) => format!("≤ {}", self.unit.text(most)),
        };
        let host = self.subjects.get(Subject::Host.name()).and_then(|figure| figure.median);
        let host = host.map_or_else(|| "–".to_owned(), |host| self.unit.text(host));
        let _ = write!(text, "| {} | {} | {host} | {must} |", self.name, self.placement);
        for subject in columns {
            let cell = self.subjects.get(subject.name()).map_or_else(
                || "–".to_owned(),
                |figure| {
                    let cell = self.cell(figure);
                    match self.is_met(figure).filter(|_| subject.is_ours()) {
                        Some(true) => format!("**{cell}**"),
                        _ => cell,
                    }
                },
            );
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }

    fn is_met(&self, figure: &Figure) -> Option<bool> {
        match self.must? {
            Goal::Ratio(ratio) => Some(figure.ratio? >= ratio),
            Goal::AtMost(most) => Some(figure.median? <= most),
        }
    }

    /// A share of the host's speed and its spread; the figure itself where the goal is one.
    fn cell(&self, figure: &Figure) -> String {
        let (Some(middle), Some(spread)) = (figure.median, figure.spread) else { return "failed".to_owned() };
        let failed = if figure.error.is_some() { " (failed once)" } else { "" };
        match (self.must, figure.ratio) {
            (Some(Goal::AtMost(_)), _) | (_, None) => {
                format!("{} ± {}{failed}", self.unit.text(middle), self.unit.text(spread))
            }
            (_, Some(ratio)) => {
                format!("{} ± {}{failed}", ratio_text(ratio), ratio_text(ratio * spread / middle))
            }
        }
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::Bytes if value >= 1024.0 * 1024.0 => format!("{:.1} MiB", value / 1024.0 / 1024.0),
            Self::Bytes => format!("{:.0} KiB", value / 1024.0),
            Self::Seconds if value >= 1.0 => format!("{value:.2} s"),
            Self::Seconds if value >= 1e-3 => format!("{:.1} ms", value * 1e3),
            Self::Seconds => format!("{:.1} µs", value * 1e6),
        }
    }
}

fn ratio_text(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// Puts `section` in the place of the generated part of `document`.
pub(crate) fn replace(document: &Path, section: &str) -> Result<()> {
    let text = fs::read_to_string(document).with_context(|| format!("reading {}", document.display()))?;
    let place = text.find(BEGIN).zip(text.find(END)).filter(|(begin, end)| begin < end);
    let (begin, end) = place.with_context(|| format!("{} has no place for the table", document.display()))?;
    let after = &text[end + END.len()..];
    Ok(fs::write(document, format!("{}{section}{after}", &text[..begin]))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_keeps_what_is_around_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("page.md");
        fs::write(&path, format!("# Page\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")).unwrap();
        replace(&path, &format!("{BEGIN}\nnew\n{END}")).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("# Page\n\n{BEGIN}\nnew\n{END}\n\nThe end.\n")
        );
        fs::write(&path, "# Page\n").unwrap();
        assert!(replace(&path, "new").is_err(), "there is no place for it");
    }

    #[test]
    fn a_row_shows_what_is_met_and_what_failed() {
        let outcome = |values: &[f64], error: Option<&str>| Outcome {
            values: values.to_vec(),
            error: error.map(str::to_owned),
        };
        let line = Line {
            name: "row",
            placement: Placement::OneCpu,
            unit: Unit::Seconds,
            cold: false,
            must: Some(Goal::Ratio(0.8)),
            by_subject: BTreeMap::from([
                (Subject::Host, outcome(&[1.0, 1.0, 1.1], None)),
                (Subject::Selvedge, outcome(&[1.25, 1.25, 1.3], None)),
                (Subject::Bindfs, outcome(&[], Some("no such program"))),
            ]),
        };
        let mut text = String::new();
        SummaryRow::of(&line).write(&mut text, &Subject::ALL[1..]);
        assert_eq!(text, "| row | one CPU | 1.00 s | 0.80 | **0.80 ± 0.000** | – | failed | – | – |\n");
    }
}
