//! Reading every object there is.

use super::Problem;
use super::reach::Reach;
use crate::export::Progress;
use crate::object::id_of;
use crate::{ObjectId, ObjectKind, Store, StoreError};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

/// How many names are asked for at a time.
const PAGE: usize = 1000;

/// How much of a large blob is read at a time.
const BUFFER: usize = 256 * 1024;

/// What became of reading an object.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// It is what its name says, and has so many bytes.
    Sound(u64),
    /// It is not.
    Damaged(String),
}

/// Every object there is.
#[derive(Debug, Default)]
pub(super) struct Objects {
    found: HashMap<(ObjectKind, ObjectId), Found>,
    pub(super) bytes: u64,
}

impl Objects {
    pub(super) fn read(store: &Store, progress: &mut dyn FnMut(Progress)) -> Result<Self, StoreError> {
        let mut objects = Self::default();
        for kind in ObjectKind::ALL {
            let mut first = ObjectId::from_bytes([0; 32]);
            loop {
                let names = store.backend().list(kind, &first, &ObjectId::from_bytes([0xff; 32]), PAGE)?;
                for id in &names {
                    let found = check(store, kind, id);
                    if let Found::Sound(size) = found {
                        objects.bytes += size;
                    }
                    objects.found.insert((kind, *id), found);
                    progress(Progress { files: objects.count(), bytes: objects.bytes });
                }
                match names.last().and_then(ObjectId::next) {
                    Some(next) if names.len() == PAGE => first = next,
                    _ => break,
                }
            }
        }
        Ok(objects)
    }

    pub(super) fn get(&self, kind: ObjectKind, id: &ObjectId) -> Option<&Found> {
        self.found.get(&(kind, *id))
    }

    pub(super) fn count(&self) -> u64 {
        self.found.len() as u64
    }

    /// Damaged objects that no thread comes upon.
    pub(super) fn unneeded_damage(&self, reach: &Reach<'_>) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .found
            .iter()
            .filter(|((kind, id), _)| !reach.has_named(*kind, id))
            .filter_map(|((kind, id), found)| match found {
                Found::Sound(_) => None,
                Found::Damaged(problem) => Some(Problem {
                    object: format!("{kind} {id}"),
                    problem: problem.clone(),
                    affects: Vec::new(),
                }),
            })
            .collect();
        problems.sort_by(|a, b| a.object.cmp(&b.object));
        problems
    }
}

fn check(store: &Store, kind: ObjectKind, id: &ObjectId) -> Found {
    match try_check(store, kind, id) {
        Ok(found) => found,
        Err(error) => Found::Damaged(sentence(&error)),
    }
}

fn try_check(store: &Store, kind: ObjectKind, id: &ObjectId) -> Result<Found, StoreError> {
    let stored = store.backend().get(kind, id)?.map(|bytes| bytes.len() as u64);
    match (stored, kind) {
        (_, ObjectKind::Tree) => drop(store.tree(id)?),
        (_, ObjectKind::Snapshot) => drop(store.snapshot(id)?),
        (_, ObjectKind::Holes) => drop(store.holes(id)?),
        (Some(size), ObjectKind::Blob) => drop(store.open_blob(id, size)?),
        (None, ObjectKind::Blob) => {}
    }
    let file = if kind == ObjectKind::Blob { store.backend().open_blob_file(id)? } else { None };
    match (file, stored) {
        // Its bytes were compared with its name when they were read above, unless they are in a file.
        (None, Some(size)) => Ok(Found::Sound(size)),
        (None, None) => Ok(Found::Damaged("it is listed, but cannot be found".to_owned())),
        (Some(file), _) => Ok(hash(file).map_or_else(
            |error| Found::Damaged(format!("it cannot be read: {error}")),
            |(actual, size)| {
                if actual == *id {
                    Found::Sound(size)
                } else {
                    Found::Damaged(format!("its {size} bytes have the hash {actual}"))
                }
            },
        )),
    }
}

fn hash(mut file: File) -> std::io::Result<(ObjectId, u64)> {
    let mut hasher = ObjectKind::Blob.hasher();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((id_of(&hasher), size)),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What is wrong, without the object's name, which stands beside it.
fn sentence(error: &StoreError) -> String {
    match error {
        StoreError::Damaged { reason, .. } => reason.clone(),
        StoreError::Missing { .. } => "it is missing".to_owned(),
        StoreError::Database { source, .. } => source.to_string(),
        StoreError::Io { what, source, .. } => format!("{what}: {source}"),
        other => other.to_string(),
    }
}
