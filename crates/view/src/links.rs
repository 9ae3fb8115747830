//! Where the names of hard-linked files of the base are.
//!
//! A file's entry tells how many names it has, not where. They are found once, by reading everything, and remembered as hints:
//! each is looked up when it is used, and as many as the entry says must be found, or everything is read again.

use crate::base::Base;
use crate::error::Result;
use crate::inode::Inode;
use foldhash::{HashMap, HashSet};
use selvedge_store::{FileKind, Ino, ObjectId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many names are remembered at most: a small worker is one that dies, and is followed, quickly.
const MOST: usize = 200_000;

/// What is remembered, which the bases of one thread share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// Directories that hold names of a file.
    holders: HashMap<Ino, Vec<Ino>>,
    /// What these directories are in, up to the root, and some others.
    above: HashMap<Ino, Ino>,
}

impl Links {
    /// Takes note of where a directory may stand in the base.
    pub(crate) fn hint(&self, directory: Ino, parent: Ino) {
        self.remembered().above.insert(directory, parent);
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        // Hints that are half noted are hints all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of a file that were found, and how many there are.
#[derive(Default)]
struct Count {
    found: u32,
    all: u32,
}

impl Base {
    /// The directories that hold `files` by whatever names; of each some are given. Reads everything only if it is not
    /// known where all of them are.
    pub(crate) fn parents_of(&self, files: &HashMap<Ino, HashSet<Ino>>) -> Result<HashSet<Ino>> {
        let links = self.links();
        let near: HashSet<Ino> = {
            let remembered = links.remembered();
            let holders = files.keys().filter_map(|file| remembered.holders.get(file)).flatten();
            files.values().flatten().chain(holders).copied().collect()
        };
        match self.parents_among(files, &near)? {
            Some(parents) => Ok(parents),
            None => self.find_links(&links, files),
        }
    }

    /// Those of `directories` that hold `files`; `None` unless all names of each are there.
    fn parents_among(
        &self,
        files: &HashMap<Ino, HashSet<Ino>>,
        directories: &HashSet<Ino>,
    ) -> Result<Option<HashSet<Ino>>> {
        let mut counts: HashMap<Ino, Count> = files.keys().map(|file| (*file, Count::default())).collect();
        let (mut parents, mut standing) = (HashSet::default(), HashMap::default());
        for &directory in directories {
            // One that is not in this base any more has names that do not count.
            let Some(tree) = self.standing(directory, &mut standing)? else { continue };
            let tree = self.tree(tree)?;
            for (position, (_, ino, kind)) in tree.iter_names().enumerate() {
                if kind != FileKind::Directory
                    && let Some(count) = counts.get_mut(&ino)
                {
                    count.found += 1;
                    count.all = tree.get(position).map_or(u32::MAX, |(_, entry)| entry.meta.nlink);
                    parents.insert(directory);
                }
            }
        }
        let complete = counts.values().all(|count| count.found > 0 && count.found == count.all);
        Ok(complete.then_some(parents))
    }

    /// The listing of a directory if it is in this base, as far as it is known where it stands: looked up from the root
    /// down, since one above it may be gone, or another's by now.
    fn standing(
        &self,
        directory: Ino,
        found: &mut HashMap<Ino, Option<ObjectId>>,
    ) -> Result<Option<ObjectId>> {
        found.entry(self.root()).or_insert(Some(self.root_tree()));
        let links = self.links();
        let mut chain = vec![directory];
        let mut at = directory;
        while !found.contains_key(&at) {
            match self.parent_hint(at).or_else(|| links.remembered().above.get(&at).copied()) {
                Some(parent) if !chain.contains(&parent) => chain.push(parent),
                _ => {
                    found.insert(at, None);
                    break;
                }
            }
            at = *chain.last().unwrap_or(&at);
        }
        while let Some(below) = chain.pop() {
            if found.contains_key(&below) {
                at = below;
                continue;
            }
            let tree = match found.get(&at).copied().flatten() {
                Some(tree) => self
                    .tree(tree)?
                    .find_ino(below)
                    .and_then(|(_, entry)| Inode::from_entry(&entry, None).tree()),
                None => None,
            };
            if let Some(tree) = tree {
                self.note_directory(at, below, tree);
            }
            found.insert(below, tree);
            at = below;
        }
        Ok(found.get(&directory).copied().flatten())
    }

    /// Reads everything; tells which directories hold `files`, and remembers those of all files with several names.
    fn find_links(&self, links: &Links, files: &HashMap<Ino, HashSet<Ino>>) -> Result<HashSet<Ino>> {
        let mut parents = HashSet::default();
        let (mut remembered, mut names) = (Remembered::default(), 0);
        let mut above = HashMap::default();
        let mut directories = vec![(self.root(), self.root_tree())];
        while let Some((directory, id)) = directories.pop() {
            let tree = self.store().tree(&id)?;
            for (_, entry) in tree.iter() {
                let ino = entry.meta.ino;
                if let Some(tree) = Inode::from_entry(&entry, None).tree() {
                    directories.push((ino, tree));
                    self.note_directory(directory, ino, tree);
                    above.insert(ino, directory);
                } else if entry.meta.nlink > 1 {
                    let is_wanted = files.contains_key(&ino);
                    if is_wanted {
                        parents.insert(directory);
                    }
                    if is_wanted || names < MOST {
                        remembered.holders.entry(ino).or_default().push(directory);
                        names += 1;
                    }
                }
            }
        }
        for holder in remembered.holders.values().flatten() {
            let mut at = *holder;
            while let Some(parent) = above.get(&at)
                && remembered.above.insert(at, *parent).is_none()
            {
                at = *parent;
            }
        }
        *links.remembered() = remembered;
        Ok(parents)
    }
}
