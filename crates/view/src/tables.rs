//! The catalogs of a thread's layers as one: what the highest layer says of a node or a name holds.

use crate::catalog::{Catalog, NameRow, Scan, Unsettled};
use crate::commit::{Commit, Effect};
use crate::dir_stream::Names;
use crate::error::{Result, ViewError};
use crate::inode::Inode;
use crate::known_names::{Known, KnownNames};
use crate::recent::Recent;
use foldhash::{HashMap, HashSet};
use selvedge_store::{FileKind, Ino, LayerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows kept decoded.
const CACHED_ROWS: usize = 16_384;

/// A directory, a name, and what a layer says of it.
pub(crate) type Named = (Ino, Vec<u8>, NameRow);

/// Where a node's metadata comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Base,
    Layer(LayerId),
}

/// A node and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) inode: Arc<Inode>,
    pub(crate) origin: Origin,
}

/// The catalogs of one thread.
#[derive(Debug)]
pub(crate) struct Tables {
    upper: Option<(LayerId, Catalog)>,
    /// Top first.
    frozen: Vec<(LayerId, Catalog)>,
    /// What the layers say of nodes, also where that is nothing.
    rows: Recent<Option<Node>, CACHED_ROWS>,
    names: KnownNames,
    /// Nodes of the upper with a fallback.
    fallbacks: HashSet<Ino>,
    unsettled: BTreeMap<(Ino, Vec<u8>), Replaced>,
}

/// What a replaced name stands between until its new content is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) old: Ino,
    pub(crate) source: Ino,
    pub(crate) from: (Ino, Vec<u8>),
}

impl From<Unsettled> for Replaced {
    fn from(row: Unsettled) -> Self {
        Self { old: row.old, source: row.source, from: row.from }
    }
}

impl Tables {
    /// Over the frozen layers, top first, and the upper, if there is one yet.
    pub(crate) fn new(upper: Option<(LayerId, Catalog)>, frozen: Vec<(LayerId, Catalog)>) -> Result<Self> {
        let mut tables = Self {
            upper: None,
            frozen,
            rows: Recent::default(),
            names: KnownNames::default(),
            fallbacks: HashSet::default(),
            unsettled: BTreeMap::new(),
        };
        if let Some((id, catalog)) = upper {
            tables.fallbacks = catalog.with_fallback()?.into_iter().collect();
            for row in catalog.unsettled()? {
                tables.unsettled.insert((row.parent, row.name.clone()), row.into());
            }
            tables.upper = Some((id, catalog));
        }
        Ok(tables)
    }

    /// Nodes without a name.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = Ino> {
        self.upper().into_iter().flat_map(Catalog::orphans)
    }

    /// Whether the node is one without a name.
    pub(crate) fn is_orphan(&self, ino: Ino) -> bool {
        self.upper().is_some_and(|catalog| catalog.is_orphan(ino))
    }

    /// Nodes whose working files are not known to be durable.
    pub(crate) fn fallbacks(&self) -> &HashSet<Ino> {
        &self.fallbacks
    }

    /// Replaced names whose new content is not known to be durable.
    pub(crate) fn unsettled(&self) -> &BTreeMap<(Ino, Vec<u8>), Replaced> {
        &self.unsettled
    }

    /// What this name stands between, if it replaced another and its new content is not known to be durable.
    pub(crate) fn replaced(&self, parent: Ino, name: &[u8]) -> Option<&Replaced> {
        // Mostly there are none, and the name need not be copied to be looked for.
        if self.unsettled.is_empty() { None } else { self.unsettled.get(&(parent, name.to_vec())) }
    }

    /// Whether the node must be kept for a replaced name to fall back to.
    pub(crate) fn is_kept(&self, ino: Ino) -> bool {
        self.unsettled.values().any(|replaced| replaced.old == ino)
    }

    /// Gives a thread that had none its upper.
    pub(crate) fn set_upper(&mut self, id: LayerId, catalog: Catalog) {
        self.upper = Some((id, catalog));
    }

    pub(crate) fn upper(&self) -> Option<&Catalog> {
        self.upper.as_ref().map(|(_, catalog)| catalog)
    }

    pub(crate) fn upper_mut(&mut self) -> Option<&mut Catalog> {
        self.upper.as_mut().map(|(_, catalog)| catalog)
    }

    /// Makes the upper a frozen layer, the highest. Nodes without a name go on in `upper`, the new one if there is one
    /// already.
    pub(crate) fn freeze_upper(&mut self, upper: Option<(LayerId, Catalog)>) {
        for orphan in upper.iter().flat_map(|(_, catalog)| catalog.orphans()) {
            self.rows.remove(orphan);
        }
        self.names.clear();
        // What is not durable yet becomes so with its layer, as a whole.
        self.fallbacks.clear();
        self.unsettled.clear();
        if let Some(frozen) = std::mem::replace(&mut self.upper, upper) {
            self.frozen.insert(0, frozen);
        }
    }

    /// Has the nodes that `commit` writes looked up anew.
    pub(crate) fn forget_rows(&mut self, commit: &Commit) {
        for inode in commit.inodes() {
            self.rows.remove(inode.ino);
        }
    }

    /// Replaces the lowest `count` frozen layers by one, or by nothing, that with the base says the same.
    pub(crate) fn replace_frozen(
        &mut self,
        count: usize,
        by: Option<(LayerId, Catalog)>,
    ) -> Vec<(LayerId, Catalog)> {
        self.rows.clear();
        self.names.clear();
        let replaced = self.frozen.split_off(self.frozen.len().saturating_sub(count));
        self.frozen.extend(by);
        replaced
    }

    /// Everything that all layers say: of each node and each name what the highest of them does.
    pub(crate) fn merged(&mut self) -> Result<(Vec<Ino>, Vec<Named>)> {
        let (mut nodes, mut names) = (BTreeSet::new(), BTreeMap::new());
        for (_, catalog) in self.layers_mut() {
            nodes.extend(catalog.numbers()?);
            for (parent, name, row) in catalog.all_names()? {
                names.entry((parent, name)).or_insert(row);
            }
        }
        let names = names.into_iter().map(|((parent, name), row)| (parent, name, row));
        Ok((nodes.into_iter().collect(), names.collect()))
    }

    /// Replaces the catalog of a frozen layer by what `reopen` makes of it.
    pub(crate) fn reopen_frozen(
        &mut self,
        id: LayerId,
        reopen: impl FnOnce(Catalog) -> Result<Catalog>,
    ) -> Result<()> {
        let Some(at) = self.frozen.iter().position(|(layer, _)| *layer == id) else { return Ok(()) };
        let (_, catalog) = self.frozen.remove(at);
        self.frozen.insert(at, (id, reopen(catalog)?));
        Ok(())
    }

    /// Takes the upper's catalog away, to close it.
    pub(crate) fn take_upper(&mut self) -> Option<Catalog> {
        self.rows.clear();
        self.names.clear();
        self.upper.take().map(|(_, catalog)| catalog)
    }

    /// What the layers say of the node, if any does.
    pub(crate) fn row(&mut self, ino: Ino) -> Result<Option<Node>> {
        if self.is_silent() {
            return Ok(None);
        }
        if let Some(known) = self.rows.get(ino) {
            return Ok(known.clone());
        }
        let mut found: Option<Node> = None;
        for (id, catalog) in self.layers() {
            let Some(inode) = catalog.inode(ino)? else { continue };
            if let Some(above) = &mut found {
                Arc::make_mut(&mut above.inode).body = inode.body;
            } else {
                found = Some(Node { inode: Arc::new(inode), origin: Origin::Layer(*id) });
            }
            // A file whose bytes lay in a layer that was made one with others has them where those say.
            let gone = |node: &Node| {
                node.inode.body.layer().is_some_and(|layer| !self.layers().any(|(id, _)| *id == layer))
            };
            if !found.as_ref().is_some_and(gone) {
                break;
            }
        }
        self.rows.insert(ino, found.clone());
        Ok(found)
    }

    /// What the layers say of the name, if any does.
    pub(crate) fn name(&mut self, parent: Ino, name: &[u8]) -> Result<Option<NameRow>> {
        if self.is_silent() {
            return Ok(None);
        }
        match self.names.get(parent, name) {
            Known::Said(said) => return Ok(said),
            Known::Nothing => {
                let silent = !self.speak_of(parent)?;
                self.names.begin(parent, silent);
                if silent {
                    return Ok(None);
                }
            }
            Known::Unknown => {}
        }
        let said = first_said(self.layers(), parent, name)?;
        self.names.keep(parent, name, said);
        Ok(said)
    }

    /// Whether any layer says anything of the names in a directory.
    fn speak_of(&self, parent: Ino) -> Result<bool> {
        for (_, catalog) in self.layers() {
            if catalog.speaks_of(parent)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the frozen layers say of the name: what shows again when the upper says nothing.
    pub(crate) fn name_below(&self, parent: Ino, name: &[u8]) -> Result<Option<NameRow>> {
        first_said(self.frozen.iter(), parent, name)
    }

    /// Everything the layers say of the names in a directory.
    pub(crate) fn names(&mut self, parent: Ino) -> Result<HashMap<Vec<u8>, NameRow>> {
        if let Some((_, said)) = self.names.said(parent) {
            return Ok(said.map(|(name, said)| (name.to_vec(), said.row)).collect());
        }
        let mut merged = HashMap::default();
        for (_, catalog) in self.layers() {
            for (name, row) in catalog.names(parent)? {
                merged.entry(name).or_insert(row);
            }
        }
        self.names.keep_all(parent, &merged);
        Ok(merged)
    }

    /// As [`names`](Self::names), for who looks none of them up.
    pub(crate) fn list_of_names(&mut self, parent: Ino) -> Result<Names> {
        if let Some((count, said)) = self.names.said(parent) {
            return Ok(list(count, said.map(|(name, said)| (name, said.row, said.cookie))));
        }
        let names = self.names(parent)?;
        Ok(list(names.len(), names.iter().map(|(name, row)| (&name[..], *row, 0))))
    }

    /// What the layers say at all, in short.
    pub(crate) fn scan(&mut self) -> Result<Scan> {
        let mut scan = Scan::default();
        for (_, catalog) in self.layers_mut() {
            catalog.scan(&mut scan)?;
        }
        Ok(scan)
    }

    /// Applies one mutation to the upper.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<()> {
        let Some((id, catalog)) = &mut self.upper else {
            return Err(ViewError::ReadOnly);
        };
        let origin = Origin::Layer(*id);
        catalog.commit(commit)?;
        for effect in &commit.effects {
            match effect {
                Effect::PutInode(inode) => {
                    match inode.fallback {
                        Some(_) => self.fallbacks.insert(inode.ino),
                        None => self.fallbacks.remove(&inode.ino),
                    };
                    let node = Node { inode: Arc::clone(inode), origin };
                    self.rows.insert(inode.ino, Some(node));
                }
                Effect::DeleteInode(ino) => {
                    self.rows.remove(*ino);
                    self.fallbacks.remove(ino);
                }
                // What is kept of its row may not say so.
                Effect::AddOrphan { ino, since } => {
                    if since.is_some() {
                        self.rows.remove(*ino);
                    }
                }
                Effect::Unsettle(row) => {
                    self.unsettled.insert((row.parent, row.name.clone()), row.clone().into());
                }
                Effect::Settle { parent, name } => {
                    self.unsettled.remove(&(*parent, name.clone()));
                }
                Effect::PutName { parent, name, ino, kind } => {
                    self.names.keep(*parent, name, Some(NameRow::Node { ino: *ino, kind: *kind }));
                }
                Effect::Whiteout { parent, name } => {
                    self.names.keep(*parent, name, Some(NameRow::Whiteout));
                }
                // What is below shows again.
                Effect::DropName { parent, name } => match self.name_below(*parent, name) {
                    Ok(said) => self.names.keep(*parent, name, said),
                    Err(_) => self.names.forget(*parent),
                },
                Effect::DropNames(parent) => self.names.forget(*parent),
                Effect::DropOrphan(_) | Effect::Found => {}
            }
        }
        Ok(())
    }

    /// Whether there is no layer that could say anything, as in a new thread.
    fn is_silent(&self) -> bool {
        self.upper.is_none() && self.frozen.is_empty()
    }

    fn layers(&self) -> impl Iterator<Item = &(LayerId, Catalog)> {
        self.upper.iter().chain(&self.frozen)
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut (LayerId, Catalog)> {
        self.upper.iter_mut().chain(&mut self.frozen)
    }
}

/// Of each name what is said of it, and its position, 0 if that is not known.
fn list<'a>(count: usize, said: impl Iterator<Item = (&'a [u8], NameRow, u64)>) -> Names {
    let mut names = Names::with_capacity(count);
    for (name, row, cookie) in said {
        match row {
            NameRow::Node { ino, kind } => names.add(name, ino, kind, cookie),
            NameRow::Whiteout => names.hide(name),
        }
    }
    names
}

/// What the first of these layers says of the name that says anything.
fn first_said<'a>(
    layers: impl Iterator<Item = &'a (LayerId, Catalog)>,
    parent: Ino,
    name: &[u8],
) -> Result<Option<NameRow>> {
    for (_, catalog) in layers {
        if let Some(row) = catalog.name(parent, name)? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

impl Node {
    /// A node that no layer mentions.
    pub(crate) fn of_base(inode: Inode) -> Self {
        Self { inode: Arc::new(inode), origin: Origin::Base }
    }

    /// Whether the node's bytes are in a working file of the very layer that holds its row, so that the host's
    /// size and times of that file are the node's.
    pub(crate) fn has_own_file(&self) -> Option<LayerId> {
        self.inode.body.layer().filter(|layer| self.origin == Origin::Layer(*layer))
    }

    /// Refuses anything but a directory that still has a name.
    pub(crate) fn live_directory(&self) -> Result<()> {
        if self.inode.kind != FileKind::Directory {
            return Err(ViewError::NotDirectory);
        }
        if self.inode.nlink == 0 {
            return Err(ViewError::NotFound);
        }
        Ok(())
    }
}
