//! The hunks of a unified diff.

use std::io::Write as _;
use std::ops::Range;

use crate::textdiff::{Edit, TextDiff};

/// How many lines that stay are shown around a change.
const CONTEXT: usize = 3;

/// How much of the line that names a function is shown.
const HEADING: usize = 80;

/// Writes what makes `new` of `old`.
pub(super) fn write(old: &[u8], new: &[u8], out: &mut Vec<u8>) {
    let diff = TextDiff::new(old, new);
    let mut heading: &[u8] = b"";
    let mut searched = 0;
    let mut rest = diff.edits.as_slice();
    while let Some(hunk) = next_hunk(&mut rest) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { return };
        let before = CONTEXT.min(first.old.start);
        let after = CONTEXT.min(diff.old.len() - last.old.end);
        let old = first.old.start - before..last.old.end + after;
        let new = first.new.start - before..last.new.end + after;
        if let Some(found) = function_line(&diff.old[searched..old.start]) {
            heading = found;
        }
        searched = old.start.max(searched);
        write_header(out, &old, &new, heading);
        write_lines(out, &diff, hunk, &old);
    }
}

/// The edits that share their context with the one before.
fn next_hunk<'a>(rest: &mut &'a [Edit]) -> Option<&'a [Edit]> {
    if rest.is_empty() {
        return None;
    }
    let near = |pair: &[Edit]| pair[1].old.start - pair[0].old.end <= 2 * CONTEXT;
    let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
    let (hunk, left) = rest.split_at(count);
    *rest = left;
    Some(hunk)
}

/// The last of `lines` that looks like the beginning of a function: it begins with a letter, `_` or `$`.
fn function_line<'a>(lines: &[&'a [u8]]) -> Option<&'a [u8]> {
    let names =
        |line: &&&[u8]| line.first().is_some_and(|byte| byte.is_ascii_alphabetic() || b"_$".contains(byte));
    let line = lines.iter().rev().find(names)?;
    let cut = &line[..line.len().min(HEADING)];
    let end =
        cut.iter().rposition(|byte| !byte.is_ascii_whitespace() && *byte != 0x0b).map_or(0, |last| last + 1);
    Some(&cut[..end])
}

fn write_header(out: &mut Vec<u8>, old: &Range<usize>, new: &Range<usize>, heading: &[u8]) {
    let range = |range: &Range<usize>| match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        len => format!("{},{len}", range.start + 1),
    };
    // A vector takes everything.
    let _ = write!(out, "@@ -{} +{} @@", range(old), range(new));
    if !heading.is_empty() {
        out.push(b' ');
        out.extend_from_slice(heading);
    }
    out.push(b'\n');
}

fn write_lines(out: &mut Vec<u8>, diff: &TextDiff<'_>, edits: &[Edit], old: &Range<usize>) {
    let mut at = old.start;
    for edit in edits {
        write_all(out, b' ', &diff.old[at..edit.old.start]);
        write_all(out, b'-', &diff.old[edit.old.clone()]);
        write_all(out, b'+', &diff.new[edit.new.clone()]);
        at = edit.old.end;
    }
    write_all(out, b' ', &diff.old[at..old.end]);
}

fn write_all(out: &mut Vec<u8>, sign: u8, lines: &[&[u8]]) {
    for line in lines {
        out.push(sign);
        out.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            out.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}
