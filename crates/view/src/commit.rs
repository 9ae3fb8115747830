//! One mutation as one value.

use crate::catalog::Unsettled;
use crate::inode::Inode;
use selvedge_store::{FileKind, Ino, Timestamp};
use std::sync::Arc;

/// One change to a layer's catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    PutInode(Arc<Inode>),
    DeleteInode(Ino),
    PutName {
        parent: Ino,
        name: Vec<u8>,
        ino: Ino,
        kind: FileKind,
    },
    /// Hides a name that a lower layer or the base has.
    Whiteout {
        parent: Ino,
        name: Vec<u8>,
    },
    /// Removes a name that nothing below has.
    DropName {
        parent: Ino,
        name: Vec<u8>,
    },
    /// Removes what is left in a directory that loses its name: whiteouts, as it is empty.
    DropNames(Ino),
    /// The node has no name left; it lives until nobody has it open.
    /// Where `since` is given, this layer has a row of it, which need not say so: as long as it does not, the node lost its
    /// name then. Rows that are put from then on do.
    AddOrphan {
        ino: Ino,
        since: Option<Timestamp>,
    },
    /// The node is gone, or is put again with a name by the same mutation.
    DropOrphan(Ino),
    /// A name was replaced by a node whose bytes are not durable yet: after a power cut it is the old one again.
    Unsettle(Unsettled),
    Settle {
        parent: Ino,
        name: Vec<u8>,
    },
    /// The layers that this one stands on are durable.
    Found,
}

/// Everything one mutation changes in the catalog, applied whole or not at all.
///
/// The request's key is part of it: it stands in the `applied` field of the directory (or, for extended
/// attributes, the node) that the mutation writes anyway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commit {
    pub(crate) effects: Vec<Effect>,
}

impl Commit {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn put(&mut self, inode: Inode) -> &mut Self {
        self.push(Effect::PutInode(Arc::new(inode)))
    }

    /// The rows it writes.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = &Inode> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::PutInode(inode) => Some(&**inode),
            _ => None,
        })
    }

    pub(crate) fn push(&mut self, effect: Effect) -> &mut Self {
        self.effects.push(effect);
        self
    }
}
