//! Looking for damage: every object, every reference, and what each damage affects.

mod objects;
mod reach;

use crate::export::Progress;
use crate::{Content, ObjectId, ObjectKind, RefsError, Repository, StoreError, ThreadRef};
use objects::Objects;
use reach::Reach;

/// The most places that are named for one damage; the rest are counted.
const MAX_PLACES: usize = 20;

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What: an object with its id, a database, a thread, a layer.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Where that shows: threads and snapshots, with the path in them where it is known.
    pub affects: Vec<String>,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many objects were read.
    pub objects: u64,
    /// How many bytes those have.
    pub bytes: u64,
    /// The threads whose references can be read.
    pub threads: Vec<ThreadRef>,
    /// Everything that is damaged.
    pub problems: Vec<Problem>,
}

/// Reads every object and compares it with its name, and looks whether all is there that threads, their snapshots and
/// those before them need. `progress` counts objects and bytes.
///
/// # Errors
/// When a database cannot be read at all. Damage is no error.
pub fn fsck(repository: &Repository, progress: &mut dyn FnMut(Progress)) -> Result<Report, FsckError> {
    let (threads, mut problems) = check_refs(repository)?;
    let store = repository.store();
    for problem in store.backend().check()? {
        problems.push(Problem { object: "objects.db".to_owned(), problem, affects: Vec::new() });
    }
    let objects = Objects::read(store, progress)?;
    let mut reach = Reach::new(store, &objects);
    for thread in &threads {
        reach.follow(&format!("thread {}", thread.name), thread.snapshot);
    }
    problems.extend(reach.problems());
    problems.extend(objects.unneeded_damage(&reach));
    Ok(Report { objects: objects.count(), bytes: objects.bytes, threads, problems })
}

/// Why damage could not be looked for.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The objects cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The references cannot be read.
    #[error(transparent)]
    Refs(#[from] RefsError),
}

fn check_refs(repository: &Repository) -> Result<(Vec<ThreadRef>, Vec<Problem>), FsckError> {
    let mut problems = Vec::new();
    for problem in repository.refs().check()? {
        problems.push(Problem { object: "refs.db".to_owned(), problem, affects: Vec::new() });
    }
    let mut threads = Vec::new();
    for (name, found) in repository.refs().each_thread()? {
        match found {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                let object = format!("thread {name}");
                problems.push(Problem { affects: vec![object.clone()], object, problem: error.to_string() });
            }
        }
    }
    Ok((threads, problems))
}

/// The objects that a file of a tree needs, besides its tree.
fn needs(content: &Content) -> Vec<(ObjectKind, ObjectId, Option<u64>)> {
    match content {
        Content::Regular { blob, size, holes } => {
            let mut needed = vec![(ObjectKind::Blob, *blob, Some(*size))];
            needed.extend(holes.map(|holes| (ObjectKind::Holes, holes, None)));
            needed
        }
        _ => Vec::new(),
    }
}
