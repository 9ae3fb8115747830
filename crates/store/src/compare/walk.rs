//! Both trees name by name.

use super::bytes;
use super::item::{Body, Item};
use super::{Change, ChangeKind, CompareError, Options, Side, Which};
use crate::beneath::join;
use crate::export::{FileReader, SourceError};
use std::ops::ControlFlow;

/// Both trees.
pub(super) struct Sides<'a> {
    pub(super) old: &'a dyn Side,
    pub(super) new: &'a dyn Side,
}

/// A path that at least one tree has.
struct Place {
    path: Vec<u8>,
    old: Option<Item>,
    new: Option<Item>,
}

/// Passes on all changes, until it is told that it is enough; in any order, renames as what they look like: something
/// added and something deleted.
pub(super) fn walk(
    sides: &Sides<'_>,
    options: &Options,
    mut found: impl FnMut(Change) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, CompareError> {
    let old = Some(sides.old.root().map_err(failed(Which::Old, b""))?);
    let new = Some(sides.new.root().map_err(failed(Which::New, b""))?);
    let mut places = vec![Place { path: Vec::new(), old, new }];
    while let Some(place) = places.pop() {
        let filter = &options.paths;
        if filter.leads(&place.path) && !place.is_same_directory() {
            sides.push_children(&place, &mut places)?;
        }
        if filter.covers(&place.path)
            && let Some(change) = sides.change(place)?
            && found(change).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Place {
    fn is_same_directory(&self) -> bool {
        matches!((&self.old, &self.new), (Some(old), Some(new)) if old.body.same_directory(&new.body))
    }
}

impl Sides<'_> {
    fn push_children(&self, place: &Place, places: &mut Vec<Place>) -> Result<(), CompareError> {
        let list = |which, item: &Option<Item>| match item {
            Some(item) if item.is_directory() => {
                self.of(which).children(item).map_err(failed(which, &place.path))
            }
            _ => Ok(Vec::new()),
        };
        let mut old = list(Which::Old, &place.old)?.into_iter().peekable();
        let mut new = list(Which::New, &place.new)?.into_iter().peekable();
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(()),
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let old = if order.is_le() { old.next() } else { None };
            let new = if order.is_ge() { new.next() } else { None };
            let name = old.as_ref().or(new.as_ref()).map(|(name, _)| name.as_slice()).unwrap_or_default();
            let path = if place.path.is_empty() { name.to_vec() } else { join(&place.path, name) };
            places.push(Place { path, old: old.map(|(_, item)| item), new: new.map(|(_, item)| item) });
        }
    }

    /// What has become of one path; `None` if nothing that counts.
    fn change(&self, place: Place) -> Result<Option<Change>, CompareError> {
        let Place { path, old, new } = place;
        let (kind, content) = match (&old, &new) {
            (None, None) => return Ok(None),
            (None, Some(_)) => (ChangeKind::Added, false),
            (Some(_), None) => (ChangeKind::Deleted, false),
            (Some(old), Some(new)) if old.kind() != new.kind() => (ChangeKind::TypeChanged, false),
            (Some(old), Some(new)) => match self.same_content(&path, &path, old, new)? {
                Some(true) if old.same_metadata(new) => return Ok(None),
                Some(same) => (ChangeKind::Modified, !same),
                // It went while it was compared.
                None => (ChangeKind::Deleted, false),
            },
        };
        let new = if kind == ChangeKind::Deleted { None } else { new };
        Ok(Some(Change { kind, path, from: None, old, new, content }))
    }

    /// Whether two files of one kind have the same bytes, target or device number. `None` if the new one is gone.
    pub(super) fn same_content(
        &self,
        old_path: &[u8],
        new_path: &[u8],
        old: &Item,
        new: &Item,
    ) -> Result<Option<bool>, CompareError> {
        let (
            Body::Regular { size: old_size, blob: old_blob },
            Body::Regular { size: new_size, blob: new_blob },
        ) = (&old.body, &new.body)
        else {
            return Ok(Some(old.is_directory() && new.is_directory() || old.body == new.body));
        };
        if old_size != new_size {
            return Ok(Some(false));
        }
        if let (Some(old), Some(new)) = (old_blob, new_blob) {
            return Ok(Some(old == new));
        }
        let Some(new_file) = self.open(Which::New, new_path, new)? else { return Ok(None) };
        let Some(old_file) = self.open(Which::Old, old_path, old)? else { return Ok(Some(false)) };
        let same = bytes::same(&*old_file, &*new_file)
            .map_err(|error| failed(Which::New, new_path)(error.into()))?;
        Ok(Some(same))
    }

    /// The content id of a regular file; `None` if it is gone.
    pub(super) fn blob_id(
        &self,
        which: Which,
        path: &[u8],
        item: &Item,
    ) -> Result<Option<crate::ObjectId>, CompareError> {
        if let Body::Regular { blob: Some(blob), .. } = item.body {
            return Ok(Some(blob));
        }
        let Some(file) = self.open(which, path, item)? else { return Ok(None) };
        bytes::blob_id(&*file).map(Some).map_err(|error| failed(which, path)(error.into()))
    }

    fn open(
        &self,
        which: Which,
        path: &[u8],
        item: &Item,
    ) -> Result<Option<Box<dyn FileReader>>, CompareError> {
        self.of(which).open(item).map_err(failed(which, path))
    }

    fn of(&self, which: Which) -> &dyn Side {
        match which {
            Which::Old => self.old,
            Which::New => self.new,
        }
    }
}

fn failed(side: Which, path: &[u8]) -> impl FnOnce(SourceError) -> CompareError {
    move |source| CompareError { side, path: path.to_vec(), source }
}
