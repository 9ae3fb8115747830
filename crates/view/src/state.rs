//! What all operations of a view share.

use crate::attr::Attr;
use crate::background::Bell;
use crate::base::Base;
use crate::catalog::NameRow;
use crate::clock::Clock;
use crate::collapse::Leaving;
use crate::crash;
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode};
use crate::latch::Latch;
use crate::layers::{Layers, Upper};
use crate::listings::Listings;
use crate::open_table::OpenTable;
use crate::patched::{PatchedFiles, Patching};
use crate::tables::{Node, Origin, Tables};
use crate::told_times::ToldTimes;
use crate::upkeep::Work;
use crate::volatile::{Volatile, Volatility};
use crate::whole::Wholes;
use crate::working_files::{HostStat, WorkingFiles};
use selvedge_store::{Extent, FileKind, Ino, LayerId, Meta, NewState, Repository, ThreadRef};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// Inode numbers taken from the repository at once.
const NUMBER_BLOCK: u64 = 4096;

/// One thread's tree, without the thread that keeps it in order.
///
/// Locks, in the order in which they may be taken: a file's `replacing`, then `thread`, then `bringing`, then `tables`,
/// then `layers`, then any other. None is held while file contents are read or synced, `replacing` aside, which only the writers of
/// that file wait for. A write to a working file holds `layers` for reading, so that no layer is frozen under it.
pub(crate) struct State {
    pub(crate) repo: Arc<Repository>,
    /// Keeps others out for as long as a duplicate of it is open.
    pub(crate) lock: OwnedFd,
    pub(crate) read_only: bool,
    pub(crate) root: Ino,
    pub(crate) open: OpenTable,
    pub(crate) listings: Listings,
    pub(crate) latch: Latch,
    pub(crate) clock: Clock,
    /// Times of open files that the kernel keeps.
    pub(crate) told: ToldTimes,
    pub(crate) work: Work,
    /// Files of the upper written since their last sync.
    pub(crate) volatile: Volatile,
    /// Files written by a worker that died may be volatile too, whichever they are.
    pub(crate) all_dirty: AtomicBool,
    /// Patched files of the upper that have parts of their own which the catalog does not know to be durable.
    pub(crate) patched: PatchedFiles,
    /// Which files are patched, and how finely.
    pub(crate) patching: Patching,
    /// Large files that are served although they need not be.
    pub(crate) wholes: Wholes,
    /// Rings when the journal has much that the catalog's file does not have.
    pub(crate) backlog: Bell,
    /// Held by whoever brings that in.
    pub(crate) bringing: Mutex<()>,
    pub(crate) boot_id: String,
    /// How long layers stay in use after a snapshot has them: a request that was carried out before may have its key in
    /// one of them until it is answered.
    pub(crate) answered_after: Duration,
    /// More frozen layers than this are made one.
    pub(crate) deepest: usize,
    /// Held by whoever makes a snapshot.
    pub(crate) snapshotting: Mutex<()>,
    pub(crate) leaving: Mutex<Leaving>,
    tables: Mutex<Tables>,
    layers: RwLock<Arc<Layers>>,
    thread: Mutex<Option<ThreadRef>>,
    numbers: Mutex<std::ops::Range<u64>>,
}

/// What [`State`] is made from.
pub(crate) struct Parts {
    pub(crate) repo: Arc<Repository>,
    pub(crate) lock: OwnedFd,
    /// The thread, unless the view is of frozen layers alone.
    pub(crate) thread: Option<ThreadRef>,
    pub(crate) read_only: bool,
    pub(crate) layers: Layers,
    pub(crate) tables: Tables,
    pub(crate) boot_id: String,
    pub(crate) answered_after: Duration,
    pub(crate) deepest: usize,
    pub(crate) patching: Patching,
    pub(crate) all_dirty: bool,
    /// The kernel keeps the times of files.
    pub(crate) kernel_times: bool,
}

impl State {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            repo: parts.repo,
            lock: parts.lock,
            read_only: parts.read_only,
            root: parts.layers.base.root(),
            open: OpenTable::default(),
            listings: Listings::default(),
            latch: Latch::default(),
            clock: Clock::default(),
            told: ToldTimes::new(parts.kernel_times),
            work: Work::default(),
            volatile: Volatile::default(),
            all_dirty: AtomicBool::new(parts.all_dirty),
            patched: PatchedFiles::default(),
            patching: parts.patching,
            wholes: Wholes::default(),
            backlog: Bell::default(),
            bringing: Mutex::new(()),
            boot_id: parts.boot_id,
            answered_after: parts.answered_after,
            deepest: parts.deepest,
            snapshotting: Mutex::new(()),
            leaving: Mutex::default(),
            tables: Mutex::new(parts.tables),
            layers: RwLock::new(Arc::new(parts.layers)),
            thread: Mutex::new(parts.thread),
            numbers: Mutex::new(0..0),
        }
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic ends the process (panic = "abort"), so nobody meets a poisoned lock outside tests; the tables
        // change their memory only after a commit succeeded, and are whole at any point.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the view is made of at this moment.
    pub(crate) fn layers(&self) -> Arc<Layers> {
        Arc::clone(&self.gate())
    }

    /// Keeps the layers as they are while it is held; the caller holds it for no longer than one write takes, and
    /// takes no lock that comes before it.
    pub(crate) fn gate(&self) -> RwLockReadGuard<'_, Arc<Layers>> {
        // Replaced whole, so whole at any point.
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody write to a working file while it is held; the caller holds the tables.
    pub(crate) fn shut_gate(&self) -> RwLockWriteGuard<'_, Arc<Layers>> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's reference, as this view left it, if the view is one of a thread. Held while it is moved.
    pub(crate) fn thread(&self) -> MutexGuard<'_, Option<ThreadRef>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn base(&self) -> Arc<Base> {
        Arc::clone(&self.gate().base)
    }

    /// The node under this number.
    pub(crate) fn node(&self, ino: Ino) -> Result<Node> {
        if let Some(node) = self.tables().row(ino)? {
            return Ok(node);
        }
        self.base_node(ino)
    }

    /// The node under this number, for a caller that holds the tables. Callers have asked for it before, so that
    /// the base answers from memory.
    pub(crate) fn node_in(&self, tables: &mut Tables, ino: Ino) -> Result<Node> {
        match tables.row(ino)? {
            Some(node) => Ok(node),
            None => self.base_node(ino),
        }
    }

    /// As [`node_in`](Self::node_in), if nothing has to be searched for it.
    pub(crate) fn node_nearby(&self, tables: &mut Tables, ino: Ino) -> Result<Option<Node>> {
        if let Some(node) = tables.row(ino)? {
            return Ok(Some(node));
        }
        let inode = self.base().inode_nearby(ino)?;
        Ok(inode.map(|inode| Node { inode, origin: Origin::Base }))
    }

    fn base_node(&self, ino: Ino) -> Result<Node> {
        let inode = self.base().inode(ino)?.ok_or(ViewError::NotFound)?;
        Ok(Node { inode, origin: Origin::Base })
    }

    /// The tables, and the directory under this number as they have it: when layers go into the base, what they said of
    /// its names is in its listing from then on, so that an earlier state of it knows less than both. The listing
    /// is in memory, so that nothing is read while the tables are held.
    pub(crate) fn tables_and_directory(&self, ino: Ino) -> Result<(MutexGuard<'_, Tables>, Node)> {
        let mut tables = self.tables();
        let nearby = self.node_nearby(&mut tables, ino)?;
        if let Some(node) = nearby
            && node.inode.tree().is_none_or(|tree| self.base().has_tree(&tree))
        {
            return Ok((tables, node));
        }
        drop(tables);
        self.warm(ino)?;
        let mut tables = self.tables();
        let node = self.node_in(&mut tables, ino)?;
        Ok((tables, node))
    }

    /// The node called `name` in `directory`.
    pub(crate) fn child_in(
        &self,
        tables: &mut Tables,
        directory: &Inode,
        name: &[u8],
    ) -> Result<Option<Node>> {
        match tables.name(directory.ino, name)? {
            Some(NameRow::Node { ino, .. }) => self.node_in(tables, ino).map(Some),
            Some(NameRow::Whiteout) => Ok(None),
            None => {
                let Some(inode) = self.base_child(directory, name)? else { return Ok(None) };
                let row = tables.row(inode.ino)?;
                Ok(Some(row.unwrap_or(Node { inode, origin: Origin::Base })))
            }
        }
    }

    /// What the base has under `name` in `directory`, whatever the layers say.
    pub(crate) fn base_child(&self, directory: &Inode, name: &[u8]) -> Result<Option<std::sync::Arc<Inode>>> {
        match directory.tree() {
            Some(tree) => self.base().child(directory.ino, tree, name),
            None => Ok(None),
        }
    }

    /// Reads a directory's base listing into memory, so that a mutation finds it there while it holds the tables.
    pub(crate) fn warm(&self, directory: Ino) -> Result<()> {
        if let Some(tree) = self.node(directory)?.inode.tree() {
            self.base().tree(tree)?;
        }
        Ok(())
    }

    /// Working files of a layer of this thread.
    pub(crate) fn files(&self, layer: LayerId, ino: Ino) -> Result<Arc<WorkingFiles>> {
        let files = self.gate().files(layer).map(Arc::clone);
        files.ok_or_else(|| ViewError::Damaged {
            ino,
            why: format!("its working file lies in layer {layer}, which is none of this thread's"),
        })
    }

    /// What the host says of the working file that holds the node's bytes.
    pub(crate) fn host_stat(&self, inode: &Inode) -> Result<Option<HostStat>> {
        let Some(layer) = inode.body.layer() else { return Ok(None) };
        let stat = self.files(layer, inode.ino)?.stat(inode.ino)?;
        if let Some(stat) = stat {
            self.clock.saw(stat.mtime);
            self.clock.saw(stat.ctime);
        }
        Ok(stat)
    }

    /// What stat(2) shows of the node.
    pub(crate) fn attr(&self, node: &Node) -> Result<Attr> {
        self.attr_and_host(node).map(|(attr, _)| attr)
    }

    /// What stat(2) shows of the node, and what the host says of its working file at the same moment.
    pub(crate) fn attr_and_host(&self, node: &Node) -> Result<(Attr, Option<HostStat>)> {
        let inode = &*node.inode;
        let mut attr = Attr {
            ino: inode.ino,
            kind: inode.kind,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size: 0,
            blocks: 0,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
        };
        let mut seen = None;
        match &inode.body {
            Body::None | Body::Tree { .. } if inode.kind == FileKind::Directory => {
                // A directory of the host has at least a block; programs take 0 for an empty pseudo directory.
                (attr.size, attr.blocks) = (4096, 8);
            }
            Body::None | Body::Tree { .. } => {}
            Body::Target(target) => attr.size = target.len() as u64,
            Body::Blob { size, holes, .. } => {
                let sparse = match holes {
                    Some(holes) => self.repo.store().holes(holes)?,
                    None => Vec::new(),
                };
                let unused: u64 = sparse.iter().map(|hole: &Extent| hole.len).sum();
                (attr.size, attr.blocks) = (*size, size.saturating_sub(unused).div_ceil(4096) * 8);
            }
            Body::File { .. } | Body::Patched(_) => {
                seen = self.host_stat(inode)?;
                if let Some(host) = seen {
                    // A patched file takes little room itself, but is no sparse file to who reads it.
                    let patched = matches!(inode.body, Body::Patched(_));
                    let blocks = if patched { host.size.div_ceil(4096) * 8 } else { host.blocks };
                    (attr.size, attr.blocks) = (host.size, blocks);
                    if node.has_own_file().is_some() {
                        attr.ctime = inode.ctime_beside(&host);
                        attr.mtime = host.mtime;
                    }
                }
            }
        }
        Ok((attr, seen))
    }

    /// What a snapshot keeps of the node besides its content.
    pub(crate) fn meta(&self, node: &Node) -> Result<Meta> {
        Ok(self.attr(node)?.meta(&node.inode))
    }

    /// A number that no file of this repository ever had.
    pub(crate) fn new_ino(&self) -> Result<Ino> {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.is_empty() {
            *numbers = self.repo.refs().reserve_numbers(NUMBER_BLOCK)?;
        }
        numbers.next().map(Ino).ok_or(ViewError::Invalid("no inode number is left"))
    }

    /// Refuses mutations of a view that takes none.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(ViewError::ReadOnly);
        }
        self.latch.check()
    }

    /// The layer that is written, made by the first mutation.
    pub(crate) fn upper(&self) -> Result<Arc<Upper>> {
        if let Some(upper) = &self.gate().upper {
            return Ok(Arc::clone(upper));
        }
        let mut thread = self.thread();
        let Some(thread) = thread.as_mut() else { return Err(ViewError::ReadOnly) };
        if let Some(upper) = &self.gate().upper {
            return Ok(Arc::clone(upper));
        }
        let (upper, catalog) = Upper::make(&self.repo, &self.boot_id, self.is_unfounded())?;
        crash::point("upper.before-ref");
        let new =
            NewState { snapshot: thread.snapshot, layers: thread.layers.clone(), upper: Some(upper.id) };
        *thread = match self.repo.refs().update_thread(thread, &new) {
            Ok(moved) => moved,
            Err(error) => {
                self.remove_unless_named(upper.id);
                return Err(error.into());
            }
        };
        let upper = Arc::new(upper);
        let mut tables = self.tables();
        let mut layers = self.shut_gate();
        tables.set_upper(upper.id, catalog);
        *layers = Arc::new(Layers {
            base: Arc::clone(&layers.base),
            frozen: layers.frozen.clone(),
            retired: layers.retired.clone(),
            upper: Some(Arc::clone(&upper)),
        });
        Ok(upper)
    }

    /// Leaves the thread without its upper, which says nothing and is closed.
    pub(crate) fn drop_upper(&self) -> Result<()> {
        let mut thread = self.thread();
        if let Some(thread) = thread.as_mut()
            && let Some(id) = thread.upper
        {
            let new = NewState { snapshot: thread.snapshot, layers: thread.layers.clone(), upper: None };
            *thread = self.repo.refs().update_thread(thread, &new)?;
            self.remove_layer(id);
        }
        Ok(())
    }

    /// The tables and the upper that they have; it stays so while they are held.
    pub(crate) fn writable_tables(&self) -> Result<(MutexGuard<'_, Tables>, Arc<Upper>)> {
        loop {
            self.upper()?;
            let tables = self.tables();
            if let Some(upper) = &self.gate().upper {
                return Ok((tables, Arc::clone(upper)));
            }
            // Frozen just now.
        }
    }

    /// Whether a layer that the upper stands on may not be durable.
    pub(crate) fn is_unfounded(&self) -> bool {
        self.layers().frozen.iter().any(|frozen| !frozen.is_sealed())
    }

    /// Removes a layer that nobody refers to. What cannot be removed is harmless but for its space.
    /// Removes a layer that a thread was not moved to. Where that cannot be told, because the failure left it in
    /// doubt, the layer stays: unused it costs its space, and used it is the thread's.
    fn remove_unless_named(&self, id: LayerId) {
        let named = self.repo.refs().threads().map(|threads| threads.iter().any(|it| it.upper == Some(id)));
        if matches!(named, Ok(false)) {
            self.remove_layer(id);
        }
    }

    pub(crate) fn remove_layer(&self, id: LayerId) {
        let directory = self.repo.layer_dir(&id);
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            tracing::warn!(%error, path = %directory.display(), "a layer that nobody needs is left");
        }
    }

    /// What a loss of power could take of the node's bytes.
    pub(crate) fn volatility(&self, node: &Node) -> Volatility {
        let own = node.has_own_file();
        if !own.is_some_and(|layer| self.gate().is_upper(layer)) {
            return Volatility::Durable;
        }
        if node.inode.fallback.is_some() || self.all_dirty.load(Ordering::Acquire) {
            return Volatility::Changed;
        }
        match self.volatile.of(node.inode.ino) {
            // Nobody hears of what is written past us.
            Volatility::Durable if self.open.is_written_past(node.inode.ino) => Volatility::Changed,
            volatility => volatility,
        }
    }
}
