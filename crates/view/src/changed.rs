//! Where a thread differs from its base: found from what the layers say, without reading what they do not mention.

use crate::error::{Result, ViewError};
use crate::state::State;
use crate::view::View;
use foldhash::{HashMap, HashSet};
use selvedge_store::{FileKind, Ino};

/// Where the layers of a thread say anything.
///
/// It may name more than what differs from the base, since a layer may say what the base says already; it never names
/// less. An entry of the base whose node is not among `nodes`, and not among `directories` if it is a directory, is
/// as the base has it, with everything beneath it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Directories at or beneath which the layers say anything, the root included, unless nothing is said at all.
    pub directories: HashSet<Ino>,
    /// Nodes that the layers have a row of.
    pub nodes: HashSet<Ino>,
}

impl View {
    /// Where the layers say anything. Costs what the layers say, not what the tree has; the base is searched as a whole
    /// only for other names of a hard-linked file that changed, unless it is remembered where they are.
    ///
    /// In a view that is written meanwhile, changes that are made during the call may be missing.
    pub fn changed(&self) -> Result<Changed> {
        self.state().changed()
    }
}

impl State {
    pub(crate) fn changed(&self) -> Result<Changed> {
        let scan = self.tables().scan()?;
        let nodes: HashSet<Ino> = scan.rows.keys().copied().collect();
        let mut directories = HashSet::default();
        for parent in &scan.parents {
            self.climb(*parent, &mut directories)?;
        }
        let mut files = HashSet::default();
        for (&ino, row) in scan.rows.iter().filter(|(_, row)| row.nlink > 0) {
            if row.kind == FileKind::Directory {
                self.climb(ino, &mut directories)?;
                continue;
            }
            files.insert(ino);
            match row.parent {
                Some(parent) => self.climb(parent, &mut directories)?,
                None => self.climb_from_base(ino, &mut directories)?,
            }
        }
        let linked = self.linked_in_base(&directories, &files)?;
        if !linked.is_empty() {
            for parent in self.base().parents_of(&linked)? {
                self.climb(parent, &mut directories)?;
            }
        }
        Ok(Changed { directories, nodes })
    }

    /// Adds `directory` and all above it. One that is nowhere any more has nothing beneath it.
    fn climb(&self, directory: Ino, into: &mut HashSet<Ino>) -> Result<()> {
        let mut at = directory;
        while !into.contains(&at) {
            let node = match self.node(at) {
                Err(ViewError::NotFound) => return Ok(()),
                node => node?,
            };
            into.insert(at);
            at = node.inode.parent.unwrap_or(at);
        }
        Ok(())
    }

    fn climb_from_base(&self, file: Ino, into: &mut HashSet<Ino>) -> Result<()> {
        match self.base().inode(file)?.and_then(|inode| inode.parent) {
            Some(parent) => self.climb(parent, into),
            None => Ok(()),
        }
    }

    /// Those of `files` that the base has under several names, with directories that have some of them. Each has one in a
    /// directory that is known to have changed: the one that its row names, or from which it was moved.
    fn linked_in_base(
        &self,
        directories: &HashSet<Ino>,
        files: &HashSet<Ino>,
    ) -> Result<HashMap<Ino, HashSet<Ino>>> {
        let mut linked: HashMap<Ino, HashSet<Ino>> = HashMap::default();
        if files.is_empty() {
            return Ok(linked);
        }
        let links = self.base().links();
        for &directory in directories {
            let node = self.node(directory)?;
            if let Some(parent) = node.inode.parent {
                links.hint(directory, parent);
            }
            let Some(tree) = node.inode.tree() else { continue };
            let tree = self.base().tree(tree)?;
            let names = tree.iter_names().enumerate();
            for (position, (_, ino, kind)) in names {
                if kind != FileKind::Directory
                    && files.contains(&ino)
                    && tree.get(position).is_some_and(|(_, entry)| entry.meta.nlink > 1)
                {
                    linked.entry(ino).or_default().insert(directory);
                }
            }
        }
        Ok(linked)
    }
}
