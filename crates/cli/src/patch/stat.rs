//! Statistics of changes, as `git diff --stat` shows them on a terminal of 80 columns.

use std::fmt::Write as _;

use super::Piece;
use super::quote::quoted;
use super::version::{Content, Version};
use crate::textdiff::TextDiff;

/// Columns of a line, altogether.
const COLUMNS: usize = 80;

/// Statistics being collected, a file at a time.
#[derive(Debug, Default)]
pub struct Stat {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    change: RowChange,
}

#[derive(Debug)]
enum RowChange {
    Lines { added: usize, removed: usize },
    Binary { old: u64, new: u64, same: bool },
}

impl Stat {
    /// Counts what a piece changes.
    pub fn add(&mut self, piece: &Piece<'_>, old: &Version, new: &Version) {
        let change = match (&old.content, &new.content) {
            (Content::Text(old), Content::Text(new)) => {
                let (added, removed) = TextDiff::new(old, new).counts();
                RowChange::Lines { added, removed }
            }
            _ => RowChange::Binary { old: old.size, new: new.size, same: old.id == new.id },
        };
        let name = piece.name();
        match self.rows.last_mut() {
            // A file of another kind is deleted and added in a patch, and one file here.
            Some(row) if row.name == name => row.change.join(&change),
            _ => self.rows.push(Row { name, change }),
        }
    }

    /// The table and its sum.
    pub fn text(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let widths = self.widths();
        let mut text = String::new();
        let (mut added, mut removed) = (0, 0);
        for row in &self.rows {
            row.write(&widths, &mut text);
            if let RowChange::Lines { added: more, removed: less } = row.change {
                added += more;
                removed += less;
            }
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let files = self.rows.len();
        // A string takes everything.
        let _ = write!(text, " {files} file{} changed", plural(files));
        if added > 0 || removed == 0 {
            let _ = write!(text, ", {added} insertion{}(+)", plural(added));
        }
        if removed > 0 || added == 0 {
            let _ = write!(text, ", {removed} deletion{}(-)", plural(removed));
        }
        text.push('\n');
        text
    }

    fn widths(&self) -> Widths {
        let digits = |number: u64| number.to_string().len();
        let most = self.rows.iter().map(Row::total).max().unwrap_or(0);
        let mut number = digits(most as u64);
        let mut binary = 0;
        for row in &self.rows {
            if let RowChange::Binary { old, new, .. } = row.change {
                binary = binary.max(14 + digits(old) + digits(new));
                number = number.max(3);
            }
        }
        let longest = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let mut name = longest;
        // The sizes of a binary file stand where the graph is, but begin four columns before it.
        let mut graph = if most + 4 > binary { most } else { binary - 4 };
        let columns = COLUMNS.max(22 + number);
        if name + number + 6 + graph > columns {
            let share = columns * 3 / 8 - number - 6;
            graph = graph.min(share.max(6));
            if name > columns - number - 6 - graph {
                name = columns - number - 6 - graph;
            } else {
                graph = columns - number - 6 - name;
            }
        }
        Widths { name, number, graph, most }
    }
}

/// Columns of a table's parts.
#[derive(Debug)]
struct Widths {
    name: usize,
    number: usize,
    graph: usize,
    /// The most lines that any file changes.
    most: usize,
}

impl RowChange {
    /// Makes one change of a deletion and the addition that follows it.
    fn join(&mut self, then: &Self) {
        *self = match (&*self, then) {
            (Self::Lines { added, removed }, Self::Lines { added: more, removed: less }) => {
                Self::Lines { added: added + more, removed: removed + less }
            }
            (before, after) => Self::Binary { old: before.old_size(), new: after.new_size(), same: false },
        };
    }

    /// Where only lines were counted, how many bytes they had is not known any more.
    const fn old_size(&self) -> u64 {
        match self {
            Self::Binary { old, .. } => *old,
            Self::Lines { .. } => 0,
        }
    }

    const fn new_size(&self) -> u64 {
        match self {
            Self::Binary { new, .. } => *new,
            Self::Lines { .. } => 0,
        }
    }
}

impl Row {
    const fn total(&self) -> usize {
        match self.change {
            RowChange::Lines { added, removed } => added + removed,
            RowChange::Binary { .. } => 0,
        }
    }

    fn write(&self, widths: &Widths, text: &mut String) {
        let (prefix, name) = shortened(&self.name, widths.name);
        let padding = widths.name
            - prefix.len().min(widths.name)
            - name.chars().count().min(widths.name - prefix.len());
        let number = widths.number;
        // A string takes everything.
        let _ = write!(text, " {prefix}{name}{:padding$} | ", "");
        let _ = match self.change {
            RowChange::Binary { same: true, .. } => writeln!(text, "{:>number$}", "Bin"),
            RowChange::Binary { old, new, .. } => writeln!(text, "{:>number$} {old} -> {new} bytes", "Bin"),
            RowChange::Lines { added: 0, removed: 0 } => writeln!(text, "{:>number$}", 0),
            RowChange::Lines { added, removed } => {
                let (plus, minus) = scaled(added, removed, widths);
                writeln!(text, "{:>number$} {}{}", added + removed, "+".repeat(plus), "-".repeat(minus))
            }
        };
    }
}

/// A name that is too long loses its beginning, up to a slash if there is one.
fn shortened(name: &str, width: usize) -> (&'static str, &str) {
    let len = name.chars().count();
    if len <= width {
        return ("", name);
    }
    let keep = width.saturating_sub(3);
    let cut = name.char_indices().nth(len - keep).map_or(name.len(), |(at, _)| at);
    let rest = &name[cut..];
    ("...", rest.find('/').map_or(rest, |slash| &rest[slash..]))
}

fn scaled(added: usize, removed: usize, widths: &Widths) -> (usize, usize) {
    if widths.graph > widths.most {
        return (added, removed);
    }
    let scale = |count: usize| if count == 0 { 0 } else { 1 + count * (widths.graph - 1) / widths.most };
    let mut total = scale(added + removed);
    if total < 2 && added > 0 && removed > 0 {
        total = 2;
    }
    if added < removed {
        let plus = scale(added);
        (plus, total - plus)
    } else {
        let minus = scale(removed);
        (total - minus, minus)
    }
}

/// Both names of a renamed file, what they share at either end named once.
pub(super) fn renamed(old: &[u8], new: &[u8]) -> String {
    let (old, new) = (quoted(old), quoted(new));
    if old.starts_with('"') || new.starts_with('"') {
        return format!("{old} => {new}");
    }
    // Names that need no quotes are ASCII.
    let (a, b) = (old.as_bytes(), new.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let prefix = a[..same].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    // The slash before a shared end may be the one at the end of the shared beginning.
    let overlap = usize::from(prefix > 0);
    let limit = (a.len() - prefix + overlap).min(b.len() - prefix + overlap);
    let tail = a.iter().rev().zip(b.iter().rev()).take(limit).take_while(|(a, b)| a == b).count();
    let suffix = (1..=tail).rev().find(|&len| a[a.len() - len] == b'/').unwrap_or(0);
    let middle =
        |name: &str| name.get(prefix..(name.len() - suffix).max(prefix)).unwrap_or_default().to_owned();
    if prefix + suffix == 0 {
        return format!("{old} => {new}");
    }
    format!("{}{{{} => {}}}{}", &old[..prefix], middle(&old), middle(&new), &old[old.len() - suffix..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_file_has_what_its_names_share_once() {
        let shown = |old: &str, new: &str| renamed(old.as_bytes(), new.as_bytes());
        assert_eq!(shown("a", "b"), "a => b");
        assert_eq!(shown("dir/a", "dir/b"), "dir/{a => b}");
        assert_eq!(shown("one/x", "two/x"), "{one => two}/x");
        assert_eq!(shown("a/b/c/x", "a/d/c/x"), "a/{b => d}/c/x");
        assert_eq!(shown("a/x", "a/b/x"), "a/{ => b}/x");
        assert_eq!(shown("a/ü", "a/b"), "\"a/\\303\\274\" => a/b");
    }
}
