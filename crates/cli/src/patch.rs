//! Changes as git shows them: patches and statistics, byte for byte what `git diff --no-index` prints for two exports
//! of the same trees, with exact renames (`-M100%`) and nothing of what git does not see: directories, owners,
//! extended attributes, modes other than "executable or not".

mod hunks;
mod quote;
mod stat;
mod version;

use std::io::Write as _;

use selvedge_store::compare::{Body, Change, ChangeKind, Item, Side, path_order};

use crate::error::Result;
use quote::{quoted, quoted_with};
pub use stat::Stat;
use version::Content;
pub use version::Version;

/// One file's part of a patch.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The path it stands at in the order of paths.
    path: &'a [u8],
    old: Option<(&'a [u8], &'a Item)>,
    new: Option<(&'a [u8], &'a Item)>,
}

/// What of `changes` a patch can show, in order. A file that was renamed and changed is one that was deleted and one
/// that was added.
pub fn pieces(changes: &[Change]) -> Vec<Piece<'_>> {
    let mut pieces: Vec<Piece<'_>> = changes.iter().flat_map(pieces_of).flatten().collect();
    pieces.sort_by(|a, b| path_order(a.path, b.path));
    pieces
}

fn pieces_of(change: &Change) -> [Option<Piece<'_>>; 2] {
    let old_path = change.from.as_deref().unwrap_or(&change.path);
    let old = change.old.as_ref().filter(|item| !item.is_directory()).map(|item| (old_path, item));
    let new = change.new.as_ref().filter(|item| !item.is_directory()).map(|item| (&*change.path, item));
    let whole = match change.kind {
        ChangeKind::Modified => is_visible(change),
        ChangeKind::Renamed => !change.content,
        ChangeKind::Added | ChangeKind::Deleted | ChangeKind::TypeChanged => false,
    };
    if whole {
        return [(old.is_some() || new.is_some()).then_some(Piece { path: &change.path, old, new }), None];
    }
    if change.kind == ChangeKind::Modified {
        return [None, None];
    }
    [
        old.map(|old| Piece { path: old_path, old: Some(old), new: None }),
        new.map(|new| Piece { path: &change.path, old: None, new: Some(new) }),
    ]
}

/// Whether git sees that the file was modified.
fn is_visible(change: &Change) -> bool {
    let mode = |item: &Option<Item>| item.as_ref().map(version::mode);
    change.content || mode(&change.old) != mode(&change.new)
}

impl Piece<'_> {
    /// Both versions of the file, read from either tree.
    pub fn load(&self, old: &dyn Side, new: &dyn Side) -> Result<(Version, Version)> {
        let load = |side, what: Option<(&[u8], &Item)>| match what {
            Some((path, item)) => Version::load(side, path, item),
            None => Ok(Version::none()),
        };
        Ok((load(old, self.old)?, load(new, self.new)?))
    }

    /// The name that statistics show.
    fn name(&self) -> String {
        match (self.old, self.new) {
            (Some((old, _)), Some((new, _))) if old != new => stat::renamed(old, new),
            (_, Some((path, _))) | (Some((path, _)), None) => quoted(path),
            (None, None) => String::new(),
        }
    }

    /// The patch that makes the new version from the old one.
    pub fn write(&self, old: &Version, new: &Version, out: &mut Vec<u8>) {
        let (old_path, new_path) = match (self.old, self.new) {
            (Some((old, _)), Some((new, _))) => (old, new),
            (Some((path, _)), None) | (None, Some((path, _))) => (path, path),
            (None, None) => return,
        };
        let (a, b) = (quoted_with("a/", old_path), quoted_with("b/", new_path));
        line(out, &format!("diff --git {a} {b}"));
        match (old.mode, new.mode) {
            (None, Some(mode)) => line(out, &format!("new file mode {mode:06o}")),
            (Some(mode), None) => line(out, &format!("deleted file mode {mode:06o}")),
            (Some(before), Some(after)) if before != after => {
                line(out, &format!("old mode {before:06o}\nnew mode {after:06o}"));
            }
            _ => {}
        }
        if old_path != new_path {
            let (from, to) = (quoted(old_path), quoted(new_path));
            line(out, &format!("similarity index 100%\nrename from {from}\nrename to {to}"));
        }
        if old.id == new.id {
            return;
        }
        let mode = match (old.mode, new.mode) {
            (Some(before), Some(after)) if before == after => format!(" {after:06o}"),
            _ => String::new(),
        };
        line(out, &format!("index {}..{}{mode}", &old.id[..7], &new.id[..7]));
        let label = |version: &Version, path: String| {
            if version.mode.is_some() { path } else { "/dev/null".to_owned() }
        };
        body(old, new, &label(old, a), &label(new, b), out);
    }
}

fn body(old: &Version, new: &Version, a: &str, b: &str, out: &mut Vec<u8>) {
    match (&old.content, &new.content) {
        // An empty file that was added or deleted has no lines to show.
        (Content::Text(old), Content::Text(new)) if old == new => {}
        (Content::Text(old), Content::Text(new)) => {
            // A name with a space ends in a tab, so that patch(1) sees where it ends.
            let end = |path: &str| if path.contains(' ') { "\t" } else { "" };
            line(out, &format!("--- {a}{}", end(a)));
            line(out, &format!("+++ {b}{}", end(b)));
            hunks::write(old, new, out);
        }
        (Content::TooLarge, _) | (_, Content::TooLarge) => {
            line(out, &format!("Files {a} and {b} differ (too large to be compared line by line)"));
        }
        _ => line(out, &format!("Binary files {a} and {b} differ")),
    }
}

fn line(out: &mut Vec<u8>, text: &str) {
    // A vector takes everything.
    let _ = writeln!(out, "{text}");
}

/// How many of `changes` no patch shows, because git does not look at what differs.
pub fn count_invisible(changes: &[Change]) -> usize {
    changes.iter().filter(|change| pieces_of(change).iter().all(Option::is_none)).count()
}

/// Whether a file of that kind has bytes that a patch shows.
fn has_bytes(item: &Item) -> bool {
    matches!(item.body, Body::Regular { .. } | Body::Symlink { .. })
}
