//! Which lines of two texts differ, exactly as git finds it: Myers' algorithm with git's short cuts, then the changes
//! slid to where git's indent heuristic wants them. Two diffs of the same texts are then the same text, which a
//! person can compare, and a test can.

mod lines;
mod myers;
mod slide;

use std::ops::Range;

use lines::Lines;

/// Lines of the old text that became lines of the new one. One of the two may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Which lines of the old text, from 0.
    pub old: Range<usize>,
    /// Which lines of the new text, from 0.
    pub new: Range<usize>,
}

/// Two texts and what differs between them.
#[derive(Debug)]
pub struct TextDiff<'a> {
    /// The old text's lines, each with its end.
    pub old: Vec<&'a [u8]>,
    /// The new text's lines, each with its end.
    pub new: Vec<&'a [u8]>,
    /// The edits, in order.
    pub edits: Vec<Edit>,
}

impl<'a> TextDiff<'a> {
    /// Compares two texts.
    pub fn new(old: &'a [u8], new: &'a [u8]) -> Self {
        let lines = Lines::new(old, new);
        let mut changed = myers::changed(&lines);
        slide::slide(&lines.old, &lines.old_text, &mut changed.old, &changed.new);
        slide::slide(&lines.new, &lines.new_text, &mut changed.new, &changed.old);
        let edits = edits(&changed);
        Self { old: lines.old_text, new: lines.new_text, edits }
    }

    /// How many lines were added and how many removed.
    pub fn counts(&self) -> (usize, usize) {
        self.edits
            .iter()
            .fold((0, 0), |(added, removed), edit| (added + edit.new.len(), removed + edit.old.len()))
    }
}

/// Which lines of either text are not in the other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Changed {
    old: Vec<bool>,
    new: Vec<bool>,
}

fn edits(changed: &Changed) -> Vec<Edit> {
    let mut edits = Vec::new();
    let (mut old, mut new) = (0, 0);
    let run = |marks: &[bool], from: usize| marks[from..].iter().take_while(|&&mark| mark).count();
    while old < changed.old.len() || new < changed.new.len() {
        let (removed, added) = (run(&changed.old, old), run(&changed.new, new));
        if removed + added == 0 {
            // Lines that stay come in pairs.
            (old, new) = (old + 1, new + 1);
            continue;
        }
        edits.push(Edit { old: old..old + removed, new: new..new + added });
        (old, new) = (old + removed, new + added);
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits_of(old: &str, new: &str) -> Vec<(Range<usize>, Range<usize>)> {
        TextDiff::new(old.as_bytes(), new.as_bytes())
            .edits
            .into_iter()
            .map(|edit| (edit.old, edit.new))
            .collect()
    }

    #[test]
    fn equal_texts_have_no_edits_and_other_ones_have_theirs() {
        assert_eq!(edits_of("", ""), []);
        assert_eq!(edits_of("a\nb\n", "a\nb\n"), []);
        assert_eq!(edits_of("a\nb\nc\n", "a\nx\nc\n"), [(1..2, 1..2)]);
        assert_eq!(edits_of("", "a\n"), [(0..0, 0..1)]);
        assert_eq!(edits_of("a\nb", "a\nb\n"), [(1..2, 1..2)], "the end of a line is part of it");
    }

    #[test]
    fn a_change_slides_to_where_a_person_would_have_it() {
        let old = "f() {\n  a\n}\n\nh() {\n  c\n}\n";
        let new = "f() {\n  a\n}\n\ng() {\n  b\n}\n\nh() {\n  c\n}\n";
        assert_eq!(edits_of(old, new), [(4..4, 4..8)]);
    }
}
