//! Sliding changes to where people would have them.
//!
//! A run of changed lines whose first line equals the line after it can as well be said to begin one line later. Of all
//! such places a run takes the one that lies beside a change of the other text, so that both become one change; else
//! the one whose ends are indented least, which is mostly between two functions and not inside them.

/// How far a run is slid in search of the best place.
const MAX_SLIDING: usize = 100;
/// How many blank lines in a row are counted.
const MAX_BLANKS: i64 = 20;
/// Deeper indents count as this.
const MAX_INDENT: i64 = 200;

/// A run of changed lines of one text; empty between two lines that stay.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
}

impl Run {
    /// The first run: at the very start, perhaps empty.
    fn first(changed: &[bool]) -> Self {
        Self { start: 0, end: end_of_run(changed, 0) }
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The run after the line that follows this one; `None` at the end of the text.
    fn next(self, changed: &[bool]) -> Option<Self> {
        (self.end < changed.len())
            .then(|| Self { start: self.end + 1, end: end_of_run(changed, self.end + 1) })
    }

    /// The run before the line that precedes this one.
    fn previous(self, changed: &[bool]) -> Option<Self> {
        let end = self.start.checked_sub(1)?;
        let start = changed[..end].iter().rposition(|mark| !mark).map_or(0, |stays| stays + 1);
        Some(Self { start, end })
    }

    /// Moves the run one line down, if it may be there, and joins it with the next if they meet.
    fn slide_down(&mut self, lines: &[u32], changed: &mut [bool]) -> bool {
        if self.end >= lines.len() || lines[self.start] != lines[self.end] {
            return false;
        }
        changed[self.start] = false;
        changed[self.end] = true;
        self.start += 1;
        self.end = end_of_run(changed, self.end + 1);
        true
    }

    /// Moves the run one line up, if it may be there, and joins it with the previous if they meet.
    fn slide_up(&mut self, lines: &[u32], changed: &mut [bool]) -> bool {
        if self.start == 0 || lines[self.start - 1] != lines[self.end - 1] {
            return false;
        }
        self.start -= 1;
        self.end -= 1;
        changed[self.start] = true;
        changed[self.end] = false;
        self.start = changed[..self.start].iter().rposition(|mark| !mark).map_or(0, |stays| stays + 1);
        true
    }
}

fn end_of_run(changed: &[bool], from: usize) -> usize {
    from + changed[from..].iter().take_while(|&&mark| mark).count()
}

/// Slides every run of changed lines of one text; `other` is what changed in the other text.
pub(super) fn slide(lines: &[u32], text: &[&[u8]], changed: &mut [bool], other: &[bool]) {
    let mut run = Run::first(changed);
    // Between each two lines that stay there is one run of either text: these two go side by side.
    let mut beside = Run::first(other);
    loop {
        if !run.is_empty() {
            slide_run(lines, text, changed, other, &mut run, &mut beside);
        }
        match (run.next(changed), beside.next(other)) {
            (Some(next), Some(next_beside)) => (run, beside) = (next, next_beside),
            _ => return,
        }
    }
}

fn slide_run(
    lines: &[u32],
    text: &[&[u8]],
    changed: &mut [bool],
    other: &[bool],
    run: &mut Run,
    beside: &mut Run,
) {
    let up = |run: &mut Run, beside: &mut Run, changed: &mut [bool]| {
        let moved = run.slide_up(lines, changed);
        if moved {
            *beside = beside.previous(other).unwrap_or(*beside);
        }
        moved
    };
    let (mut earliest_end, mut meets_other, mut size);
    loop {
        size = run.end - run.start;
        while up(run, beside, changed) {}
        earliest_end = run.end;
        meets_other = !beside.is_empty();
        while run.slide_down(lines, changed) {
            *beside = beside.next(other).unwrap_or(*beside);
            meets_other |= !beside.is_empty();
        }
        // A run that has grown may slide further.
        if run.end - run.start == size {
            break;
        }
    }
    if run.end == earliest_end {
        return;
    }
    if meets_other {
        while beside.is_empty() && up(run, beside, changed) {}
        return;
    }
    let best = best_end(text, run.end, size, earliest_end);
    while run.end > best && up(run, beside, changed) {}
}

/// Of all places where a run of `size` lines may end, from `earliest` to `latest`, the best.
fn best_end(text: &[&[u8]], latest: usize, size: usize, earliest: usize) -> usize {
    let first = earliest.max((latest - size).saturating_sub(1)).max(latest.saturating_sub(MAX_SLIDING));
    let mut best: Option<(usize, Score)> = None;
    for end in first..=latest {
        let mut score = Score::default();
        score.add(&Split::at(text, end));
        score.add(&Split::at(text, end - size));
        if best.as_ref().is_none_or(|(_, best)| score.is_as_good_as(best)) {
            best = Some((end, score));
        }
    }
    best.map_or(latest, |(end, _)| end)
}

/// What is around the border before a line.
#[derive(Debug)]
struct Split {
    at_end: bool,
    /// Of the line; `None` if it is blank or there is none.
    indent: Option<i64>,
    blanks_before: i64,
    /// Of the last line before that is not blank.
    indent_before: Option<i64>,
    blanks_after: i64,
    /// Of the first line after it that is not blank.
    indent_after: Option<i64>,
}

impl Split {
    fn at(text: &[&[u8]], line: usize) -> Self {
        let look = |lines: &mut dyn Iterator<Item = &&[u8]>| {
            let mut blanks = 0;
            for line in lines {
                if let Some(indent) = indent(line) {
                    return (blanks, Some(indent));
                }
                blanks += 1;
                if blanks == MAX_BLANKS {
                    return (blanks, Some(0));
                }
            }
            (blanks, None)
        };
        let (blanks_before, indent_before) = look(&mut text[..line].iter().rev());
        let (blanks_after, indent_after) = look(&mut text.iter().skip(line + 1));
        Self {
            at_end: line >= text.len(),
            indent: text.get(line).and_then(|line| indent(line)),
            blanks_before,
            indent_before,
            blanks_after,
            indent_after,
        }
    }
}

/// By how much a line is indented, tabs to eight columns; `None` for a blank one.
fn indent(line: &[u8]) -> Option<i64> {
    let mut columns = 0;
    for &byte in line {
        match byte {
            b' ' => columns += 1,
            b'\t' => columns += 8 - columns % 8,
            b'\n' | b'\r' | 0x0b | 0x0c => {}
            _ => return Some(columns),
        }
        if columns >= MAX_INDENT {
            return Some(MAX_INDENT);
        }
    }
    None
}

/// How bad a place is: first by the indents at both ends, then by a penalty. The weights are git's, found by trying
/// them on places that people chose.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    indent: i64,
    penalty: i64,
}

impl Score {
    fn add(&mut self, split: &Split) {
        if split.indent_before.is_none() && split.blanks_before == 0 {
            // The start of the text.
            self.penalty += 1;
        }
        if split.at_end {
            self.penalty += 21;
        }
        let blanks_after = if split.indent.is_none() { 1 + split.blanks_after } else { 0 };
        let blanks = split.blanks_before + blanks_after;
        self.penalty += 6 * blanks_after - 30 * blanks;
        let indent = split.indent.or(split.indent_after);
        self.indent += indent.unwrap_or(-1);
        let (Some(indent), Some(before)) = (indent, split.indent_before) else { return };
        let blank = blanks > 0;
        self.penalty += match indent.cmp(&before) {
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater if blank => 10,
            std::cmp::Ordering::Greater => -4,
            std::cmp::Ordering::Less if blank => 17,
            // Inside a block that goes on, or at its end.
            std::cmp::Ordering::Less if split.indent_after.is_some_and(|after| after > indent) => 24,
            std::cmp::Ordering::Less => 23,
        };
    }

    fn is_as_good_as(&self, other: &Self) -> bool {
        let by_indent = match self.indent.cmp(&other.indent) {
            std::cmp::Ordering::Less => -60,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => 60,
        };
        by_indent + self.penalty - other.penalty <= 0
    }
}
