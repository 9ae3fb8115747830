//! What the journal says and the catalog's file does not yet: the rows of many mutations, each as the last one left it.

use crate::catalog::{NameRow, Unsettled};
use crate::commit::Effect;
use crate::inode::Inode;
use foldhash::HashMap;
use selvedge_store::{Ino, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What is pending of a directory's names.
#[derive(Debug, Default)]
struct Names {
    /// Whatever the file says of names in it is gone.
    dropped: bool,
    /// What is said of a name; nothing if the name's row is gone.
    said: HashMap<Vec<u8>, Option<NameRow>>,
}

/// What is pending of a node that has no name, or had none.
#[derive(Debug, Clone, Copy)]
enum Orphan {
    Is { since: Option<Timestamp> },
    IsNot,
}

/// What a number of mutations, one after the other, came to.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    rows: HashMap<Ino, Option<Arc<Inode>>>,
    names: HashMap<Ino, Names>,
    orphans: HashMap<Ino, Orphan>,
    unsettled: HashMap<(Ino, Vec<u8>), Option<Unsettled>>,
    found: bool,
    /// The number of its last record.
    last: u64,
    /// How many effects were noted, whatever they came to.
    noted: usize,
    effects: OnceLock<Vec<Effect>>,
    brought_in: AtomicBool,
}

impl Batch {
    /// Takes note of one more mutation, whose record has this number.
    pub(crate) fn note(&mut self, effects: &[Effect], record: u64) {
        for effect in effects {
            self.note_effect(effect);
        }
        self.noted += effects.len();
        self.last = record;
    }

    fn note_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::PutInode(inode) => drop(self.rows.insert(inode.ino, Some(Arc::clone(inode)))),
            Effect::DeleteInode(ino) => drop(self.rows.insert(*ino, None)),
            Effect::PutName { parent, name, ino, kind } => {
                self.say(*parent, name, Some(NameRow::Node { ino: *ino, kind: *kind }));
            }
            Effect::Whiteout { parent, name } => self.say(*parent, name, Some(NameRow::Whiteout)),
            Effect::DropName { parent, name } => self.say(*parent, name, None),
            Effect::DropNames(parent) => {
                drop(self.names.insert(*parent, Names { dropped: true, said: HashMap::default() }));
            }
            Effect::AddOrphan { ino, since } => {
                self.orphans.insert(*ino, Orphan::Is { since: *since });
            }
            Effect::DropOrphan(ino) => {
                self.orphans.insert(*ino, Orphan::IsNot);
            }
            Effect::Unsettle(row) => {
                drop(self.unsettled.insert((row.parent, row.name.clone()), Some(row.clone())));
            }
            Effect::Settle { parent, name } => {
                drop(self.unsettled.insert((*parent, name.clone()), None));
            }
            Effect::Found => self.found = true,
        }
    }

    fn say(&mut self, parent: Ino, name: &[u8], row: Option<NameRow>) {
        let said = &mut self.names.entry(parent).or_default().said;
        match said.get_mut(name) {
            Some(known) => *known = row,
            None => drop(said.insert(name.to_vec(), row)),
        }
    }

    /// Whether nothing was noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.noted == 0
    }

    /// How many effects were noted.
    pub(crate) fn noted(&self) -> usize {
        self.noted
    }

    /// The number of its last record.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether the file says all of it.
    pub(crate) fn is_brought_in(&self) -> bool {
        self.brought_in.load(Ordering::Acquire)
    }

    /// Takes note that the file says all of it.
    pub(crate) fn set_brought_in(&self) {
        self.brought_in.store(true, Ordering::Release);
    }

    /// What is pending of the node's row, if anything is: the row, or that it is gone.
    #[expect(clippy::option_option, reason = "that nothing is pending, and that it is gone, are two things")]
    pub(crate) fn row(&self, ino: Ino) -> Option<Option<&Arc<Inode>>> {
        self.rows.get(&ino).map(Option::as_ref)
    }

    /// All rows of which something is pending.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Ino, Option<&Arc<Inode>>)> {
        self.rows.iter().map(|(ino, row)| (*ino, row.as_ref()))
    }

    /// What is pending of a name, if anything is: what is said of it, or that nothing is said any more.
    #[expect(clippy::option_option, reason = "that nothing is pending, and that it is gone, are two things")]
    pub(crate) fn name(&self, parent: Ino, name: &[u8]) -> Option<Option<NameRow>> {
        let names = self.names.get(&parent)?;
        match names.said.get(name) {
            Some(said) => Some(*said),
            None => names.dropped.then_some(None),
        }
    }

    /// Makes of what was said of the names in `parent` before what is said with this.
    pub(crate) fn amend_names(&self, parent: Ino, names: &mut BTreeMap<Vec<u8>, NameRow>) {
        let Some(pending) = self.names.get(&parent) else { return };
        if pending.dropped {
            names.clear();
        }
        for (name, row) in &pending.said {
            match row {
                Some(row) => drop(names.insert(name.clone(), *row)),
                None => drop(names.remove(name)),
            }
        }
    }

    /// Whether anything is pending of the names in `parent`.
    pub(crate) fn speaks_of(&self, parent: Ino) -> bool {
        self.names.contains_key(&parent)
    }

    /// Makes of the replaced names of before those of now.
    pub(crate) fn amend_unsettled(&self, rows: &mut Vec<Unsettled>) {
        rows.retain(|row| !self.unsettled.contains_key(&(row.parent, row.name.clone())));
        rows.extend(self.unsettled.values().flatten().cloned());
    }

    /// Whether it says that the layers beneath are durable.
    pub(crate) fn is_found(&self) -> bool {
        self.found
    }

    /// The effects that bring all of it into the file, each row once, in the order in which the file has them.
    pub(crate) fn effects(&self) -> &[Effect] {
        self.effects.get_or_init(|| {
            let mut effects = Vec::with_capacity(self.rows.len() + self.orphans.len() + self.unsettled.len());
            let mut directories: Vec<_> = self.names.iter().collect();
            directories.sort_unstable_by_key(|(parent, _)| **parent);
            for (&parent, names) in directories {
                if names.dropped {
                    effects.push(Effect::DropNames(parent));
                }
                let mut said: Vec<_> = names.said.iter().collect();
                said.sort_unstable_by_key(|(name, _)| *name);
                effects.extend(said.into_iter().map(|(name, row)| name_effect(parent, name.clone(), *row)));
            }
            let mut rows: Vec<_> = self.rows.iter().collect();
            rows.sort_unstable_by_key(|(ino, _)| **ino);
            effects.extend(rows.into_iter().map(|(&ino, row)| match row {
                Some(row) => Effect::PutInode(Arc::clone(row)),
                None => Effect::DeleteInode(ino),
            }));
            let mut orphans: Vec<_> = self.orphans.iter().collect();
            orphans.sort_unstable_by_key(|(ino, _)| **ino);
            effects.extend(orphans.into_iter().map(|(&ino, orphan)| match *orphan {
                Orphan::Is { since } => Effect::AddOrphan { ino, since },
                Orphan::IsNot => Effect::DropOrphan(ino),
            }));
            effects.extend(self.unsettled.iter().map(|((parent, name), row)| match row {
                Some(row) => Effect::Unsettle(row.clone()),
                None => Effect::Settle { parent: *parent, name: name.clone() },
            }));
            effects.extend(self.found.then_some(Effect::Found));
            effects
        })
    }
}

fn name_effect(parent: Ino, name: Vec<u8>, row: Option<NameRow>) -> Effect {
    match row {
        Some(NameRow::Node { ino, kind }) => Effect::PutName { parent, name, ino, kind },
        Some(NameRow::Whiteout) => Effect::Whiteout { parent, name },
        None => Effect::DropName { parent, name },
    }
}
