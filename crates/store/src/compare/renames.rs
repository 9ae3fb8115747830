//! Which of what was added is something that was deleted elsewhere.

use super::item::{Body, Item};
use super::walk::Sides;
use super::{Change, ChangeKind, CompareError, Which, path_order};
use crate::ObjectId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

/// Deleted paths that are still to be found elsewhere, in their order, by what identifies them.
type Lost<K> = HashMap<K, VecDeque<usize>>;

/// Makes one renamed path of a deleted and an added one: of the same file, by its number, where numbers mean that;
/// then of files and links with equal content, which is not empty. Among several a path that keeps its last name goes
/// first.
pub(super) fn pair(
    sides: &Sides<'_>,
    same_numbers: bool,
    changes: &mut Vec<Change>,
) -> Result<(), CompareError> {
    changes.sort_by(|a, b| path_order(&a.path, &b.path));
    let mut pairs = Vec::new();
    if same_numbers {
        pair_by(changes, &mut pairs, |_, _, item| Ok(Some((item.ino, item.kind().code()))))?;
    }
    let sizes: HashSet<u64> = deleted_items(changes, &pairs).filter_map(size).collect();
    let mut content = |which, path: &[u8], item: &Item| match &item.body {
        Body::Symlink { target } => Ok(Some(Identity::Target(target.clone()))),
        // Only what has the size of something deleted is read.
        Body::Regular { size, .. } if *size > 0 && sizes.contains(size) => {
            Ok(sides.blob_id(which, path, item)?.map(Identity::Bytes))
        }
        _ => Ok(None),
    };
    pair_by(changes, &mut pairs, &mut content)?;
    join(sides, changes, &pairs)
}

/// What two files have in common that count as one by their content.
#[derive(PartialEq, Eq, Hash)]
enum Identity {
    Bytes(ObjectId),
    Target(Vec<u8>),
}

fn deleted_items<'a>(changes: &'a [Change], pairs: &[(usize, usize)]) -> impl Iterator<Item = &'a Item> {
    let found: HashSet<usize> = pairs.iter().map(|(old, _)| *old).collect();
    let lost = changes.iter().enumerate().filter(move |(position, _)| !found.contains(position));
    lost.filter_map(|(_, change)| if change.kind == ChangeKind::Deleted { change.old.as_ref() } else { None })
}

fn size(item: &Item) -> Option<u64> {
    match item.body {
        Body::Regular { size, .. } => Some(size),
        _ => None,
    }
}

/// Pairs what is not in `pairs` yet and has one identity: positions of the deleted and the added.
fn pair_by<K: Eq + Hash>(
    changes: &[Change],
    pairs: &mut Vec<(usize, usize)>,
    mut identity: impl FnMut(Which, &[u8], &Item) -> Result<Option<K>, CompareError>,
) -> Result<(), CompareError> {
    let done: HashSet<usize> = pairs.iter().flat_map(|(old, new)| [*old, *new]).collect();
    let left = |kind| {
        let done = &done;
        let of_kind =
            move |(position, change): &(usize, &Change)| change.kind == kind && !done.contains(position);
        changes.iter().enumerate().filter(of_kind)
    };
    if left(ChangeKind::Added).next().is_none() {
        return Ok(());
    }
    let mut lost: Lost<K> = HashMap::new();
    for (position, change) in left(ChangeKind::Deleted) {
        if let Some(item) = &change.old
            && let Some(key) = identity(Which::Old, &change.path, item)?
        {
            lost.entry(key).or_default().push_back(position);
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    for (position, change) in left(ChangeKind::Added) {
        if let Some(item) = &change.new
            && let Some(key) = identity(Which::New, &change.path, item)?
            && let Some(candidates) = lost.get_mut(&key)
        {
            let named_so = |&old: &usize| last_name(&changes[old].path) == last_name(&change.path);
            let best = candidates.iter().position(named_so).unwrap_or(0);
            pairs.extend(candidates.remove(best).map(|old| (old, position)));
        }
    }
    Ok(())
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// Turns each pair into one renamed path.
fn join(sides: &Sides<'_>, changes: &mut Vec<Change>, pairs: &[(usize, usize)]) -> Result<(), CompareError> {
    let mut gone = HashSet::new();
    for &(old, new) in pairs {
        let (from, item) = (changes[old].path.clone(), changes[old].old.clone());
        let change = &mut changes[new];
        if let (Some(old_item), Some(new_item)) = (&item, &change.new) {
            // What went since was listed before, so it counts as it was.
            let same = sides.same_content(&from, &change.path, old_item, new_item)?;
            change.content = same == Some(false);
        }
        change.kind = ChangeKind::Renamed;
        change.from = Some(from);
        change.old = item;
        gone.insert(old);
    }
    let mut position = 0;
    changes.retain(|_| {
        position += 1;
        !gone.contains(&(position - 1))
    });
    Ok(())
}
