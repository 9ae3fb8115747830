//! A layer's durable metadata: nodes, names, whiteouts, orphans and replaced names.
//!
//! They are kept in a file, one `SQLite` database, and before it in a journal: a mutation is one record there, in the
//! kernel when it is answered, and its rows are pending here until somebody brings them into the file. What is asked is
//! answered from both. Only the holder of the thread's lock opens the catalog of an upper; that of a frozen layer is the
//! file alone.

use crate::claim::Claim;
use crate::commit::{Commit, Effect};
use crate::crash;
use crate::database::{Database, Wanted};
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode, Patch};
use crate::journal::{Appended, Journal};
use crate::pending::Batch;
use crate::record;
use crate::rows::Rows;
use foldhash::{HashMap, HashSet};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use selvedge_store::{FileKind, Ino, Timestamp};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A catalog's file, in a layer's directory.
pub(crate) const FILE: &str = "catalog.db";

/// The log of that file, there while it is written.
pub(crate) const LOG: &str = "catalog.db-wal";

/// Effects brought in at once, while others who want to read the file wait.
const SLICE: usize = 32;

/// How long who brings effects in lets others read the file between two slices.
const YIELD: Duration = Duration::from_micros(50);

/// What a layer says of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRow {
    Node { ino: Ino, kind: FileKind },
    Whiteout,
}

/// A replaced name whose new content is not durable yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) parent: Ino,
    pub(crate) name: Vec<u8>,
    pub(crate) old: Ino,
    pub(crate) source: Ino,
    /// Where `source` had its name before.
    pub(crate) from: (Ino, Vec<u8>),
}

/// What layers say at all, in short; gathered top down.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Every node that has a row.
    pub(crate) rows: HashMap<Ino, Row>,
    /// Directories some names of which are spoken of.
    pub(crate) parents: HashSet<Ino>,
}

/// A node's row, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: FileKind,
    pub(crate) nlink: u32,
    pub(crate) parent: Option<Ino>,
}

/// One layer's catalog.
#[derive(Debug)]
pub(crate) struct Catalog {
    file: Arc<CatalogFile>,
    /// Kept as long as the catalog is open for writing.
    claim: Option<Claim>,
    /// The nodes that have a row; those of which it is gone may be among them.
    rows: Rows,
    /// The nodes without a name, each with when it lost its last one if its row need not say so. Of a layer that is written:
    /// in others nobody asks, and rows say so themselves.
    orphans: HashMap<Ino, Option<Timestamp>>,
    /// Made by the first who writes.
    journal: Option<Journal>,
    /// The journal has to begin anew before it is appended to.
    torn: bool,
    /// What the file lacks, but for what is being brought in.
    pending: Batch,
    /// What is being brought in, or has been: older than what is pending.
    bringing: Option<Arc<Batch>>,
}

/// A catalog's file, shared with who brings the journal in.
#[derive(Debug)]
pub(crate) struct CatalogFile {
    directory: PathBuf,
    database: Mutex<Database>,
    /// How many wait for the database, besides who brings effects in.
    waiting: AtomicUsize,
    /// The number of the last record that the file has, durable.
    durable: AtomicU64,
    log: OnceLock<OwnedFd>,
}

/// What is to be brought in, for a caller that keeps nobody from the catalog.
#[derive(Debug)]
pub(crate) struct Bringing {
    file: Arc<CatalogFile>,
    batch: Arc<Batch>,
    /// Whether the journal is so long that its beginning is to be made free.
    checkpoint: bool,
}

impl Catalog {
    /// Makes the catalog of a new layer.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        Ok(Self::new(directory, Database::create(&directory.join(FILE))?))
    }

    /// Opens the catalog of a thread's upper, which only the holder of the thread's lock may do.
    pub(crate) fn open_upper(directory: &Path) -> Result<Self> {
        let database = Database::open_upper(&directory.join(FILE))?;
        let found = Journal::open(directory, database.brought_in())?;
        let orphans = database.orphans()?;
        let mut catalog = Self { orphans, ..Self::new(directory, database) };
        if let Some(found) = found {
            for (number, bytes) in found.records {
                let effects = record::decode(&bytes).ok_or(ViewError::Journal { record: number })?;
                catalog.note_orphans(&effects);
                catalog.pending.note(&effects, number);
            }
            catalog.torn = found.torn;
            catalog.journal = Some(found.journal);
        }
        Ok(catalog)
    }

    /// Opens the catalog of a frozen layer: nobody writes it, so any number of processes may read it unlocked.
    pub(crate) fn open_frozen(directory: &Path) -> Result<Self> {
        Ok(Self::new(directory, Database::open_frozen(&directory.join(FILE))?))
    }

    fn new(directory: &Path, database: Database) -> Self {
        let file = CatalogFile {
            directory: directory.to_owned(),
            database: Mutex::new(database),
            waiting: AtomicUsize::new(0),
            durable: AtomicU64::new(0),
            log: OnceLock::new(),
        };
        Self {
            file: Arc::new(file),
            claim: None,
            rows: Rows::default(),
            orphans: HashMap::default(),
            journal: None,
            torn: false,
            pending: Batch::default(),
            bringing: None,
        }
    }

    /// Keeps others from opening it until it is closed.
    pub(crate) fn with_claim(self, claim: Claim) -> Self {
        Self { claim: Some(claim), ..self }
    }

    /// Marks the catalog as in use under this boot, which also brings its journal into being.
    pub(crate) fn begin_use(&mut self, boot_id: &str) -> Result<()> {
        self.file.database().begin_use(boot_id)?;
        self.journal().map(drop)
    }

    /// Marks the catalog as closed with everything durable.
    pub(crate) fn end_use(&mut self) -> Result<()> {
        self.settled()?.set_meta("orderly", 1)
    }

    /// Whether its last user closed it with everything durable.
    pub(crate) fn ended_orderly(&self) -> Result<bool> {
        // A loss of power may have taken the mark of a later use, but not what was committed then.
        let is_used = self.torn || self.batches().any(|batch| !batch.is_empty());
        Ok(!is_used && self.file.database().meta::<i64>("orderly")? == Some(1))
    }

    /// Marks a new layer as one that stands on layers which may not be durable; `Effect::Found` takes the mark away.
    pub(crate) fn set_unfounded(&self) -> Result<()> {
        self.file.database().set_meta("unfounded", 1)
    }

    /// Whether the layer stands on layers which may not be durable.
    pub(crate) fn is_unfounded(&self) -> Result<bool> {
        let found = self.batches().any(Batch::is_found);
        Ok(!found && self.file.database().meta::<i64>("unfounded")? == Some(1))
    }

    /// The boot under which it was last used.
    pub(crate) fn boot_id(&self) -> Result<Option<String>> {
        self.file.database().meta("boot")
    }

    /// Makes what the file has by now durable, with its log.
    pub(crate) fn sync_file(&self) -> Result<()> {
        self.file.sync_log()
    }

    /// What the file lacks, the newest first.
    fn batches(&self) -> impl DoubleEndedIterator<Item = &Batch> {
        // That it is brought in meanwhile changes nothing: the file says the same then, until another one is.
        std::iter::once(&self.pending).chain(self.bringing.as_deref())
    }

    /// Whether there is a row of the node, if that is known without asking the file. Where a directory has none, no
    /// name in it is spoken of either: who changes a directory's names writes its row.
    fn may_speak_of(&self, ino: Ino) -> Result<bool> {
        self.rows.may_have(ino, |most| {
            let mut numbers = self.file.database().numbers(most)?;
            numbers.extend(self.batches().flat_map(Batch::rows).map(|(ino, _)| ino));
            Ok(numbers)
        })
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        if !self.may_speak_of(ino)? {
            return Ok(None);
        }
        let row = match self.batches().find_map(|batch| batch.row(ino)) {
            Some(row) => row.map(|row| (**row).clone()),
            None => self.file.database().inode(ino)?,
        };
        Ok(row.map(|row| self.amended(row)))
    }

    /// The row as it is to be read.
    fn amended(&self, row: Inode) -> Inode {
        match self.orphans.get(&row.ino) {
            Some(Some(since)) => row.without_name(*since),
            Some(None) | None => row,
        }
    }

    /// The rows that say what is wanted.
    pub(crate) fn inodes(&self, wanted: Wanted) -> Result<Vec<Inode>> {
        let mut pending: HashMap<Ino, Option<&Arc<Inode>>> = HashMap::default();
        for (ino, row) in self.batches().rev().flat_map(Batch::rows) {
            pending.insert(ino, row);
        }
        let mut found = self.file.database().inodes(wanted)?;
        found.retain(|row| !pending.contains_key(&row.ino));
        let rows = pending.into_values().flatten().filter(|row| wanted.is(row));
        found.extend(rows.map(|row| (**row).clone()));
        Ok(found.into_iter().map(|row| self.amended(row)).collect())
    }

    /// The patched files.
    pub(crate) fn patched(&self) -> Result<Vec<(Ino, Patch)>> {
        let rows = self.inodes(Wanted::Patched)?.into_iter();
        Ok(rows
            .filter_map(|row| match row.body {
                Body::Patched(patch) => Some((row.ino, *patch)),
                _ => None,
            })
            .collect())
    }

    /// Nodes that have a fallback.
    pub(crate) fn with_fallback(&self) -> Result<Vec<Ino>> {
        Ok(self.inodes(Wanted::WithFallback)?.into_iter().map(|row| row.ino).collect())
    }

    pub(crate) fn name(&self, parent: Ino, name: &[u8]) -> Result<Option<NameRow>> {
        if !self.may_speak_of(parent)? {
            return Ok(None);
        }
        match self.batches().find_map(|batch| batch.name(parent, name)) {
            Some(said) => Ok(said),
            None => self.file.database().name(parent, name),
        }
    }

    /// Whether this layer may say anything of the names in `parent`.
    pub(crate) fn speaks_of(&self, parent: Ino) -> Result<bool> {
        Ok(self.batches().any(|batch| batch.speaks_of(parent)) || self.file.database().speaks_of(parent)?)
    }

    /// Everything this layer says of the names in `parent`.
    pub(crate) fn names(&self, parent: Ino) -> Result<Vec<(Vec<u8>, NameRow)>> {
        if !self.may_speak_of(parent)? {
            return Ok(Vec::new());
        }
        let names = self.file.database().names(parent)?;
        if !self.batches().any(|batch| batch.speaks_of(parent)) {
            return Ok(names);
        }
        let mut names: BTreeMap<Vec<u8>, NameRow> = names.into_iter().collect();
        for batch in self.batches().rev() {
            batch.amend_names(parent, &mut names);
        }
        Ok(names.into_iter().collect())
    }

    /// Everything this layer says of names.
    pub(crate) fn all_names(&mut self) -> Result<Vec<(Ino, Vec<u8>, NameRow)>> {
        self.settled()?.all_names()
    }

    /// The nodes that this layer has a row of.
    pub(crate) fn numbers(&mut self) -> Result<HashSet<Ino>> {
        self.settled()?.numbers(u64::MAX)
    }

    /// Adds what this layer says where no layer above it has said it.
    pub(crate) fn scan(&mut self, scan: &mut Scan) -> Result<()> {
        self.settled()?.scan(scan)
    }

    /// The nodes without a name, of a layer that is written.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = Ino> {
        self.orphans.keys().copied()
    }

    /// Whether the node is one without a name.
    pub(crate) fn is_orphan(&self, ino: Ino) -> bool {
        self.orphans.contains_key(&ino)
    }

    fn note_orphans(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::AddOrphan { ino, since } => drop(self.orphans.insert(*ino, *since)),
                Effect::DropOrphan(ino) => drop(self.orphans.remove(ino)),
                _ => {}
            }
        }
    }

    pub(crate) fn unsettled(&self) -> Result<Vec<Unsettled>> {
        let mut rows = self.file.database().unsettled()?;
        self.batches().rev().for_each(|batch| batch.amend_unsettled(&mut rows));
        Ok(rows)
    }

    /// Where the bytes of all nodes are, and those that these may fall back to.
    pub(crate) fn bodies(&mut self) -> Result<Vec<Body>> {
        self.settled()?.bodies()
    }

    /// What is wrong with the file, and the rows that cannot be read.
    pub(crate) fn problems(&mut self) -> Result<Vec<String>> {
        self.settled()?.problems()
    }

    /// Whether the layer says anything of nodes that have a name, or of names.
    pub(crate) fn says_anything(&mut self) -> Result<bool> {
        self.settled()?.says_anything()
    }

    /// Applies one mutation whole. When it returns, the death of every process of ours cannot lose it.
    ///
    /// # Errors
    /// When the disk fails or is full: then nothing of it is applied.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<()> {
        crash::point("commit.before");
        let write = |into: &mut Vec<u8>| record::encode(&commit.effects, into);
        let mut appended = self.journal()?.append(write)?;
        if let Appended::NoRoom(length) = appended
            && Journal::can_hold(length)
        {
            self.make_room()?;
            appended = self.journal()?.append(write)?;
        }
        match appended {
            Appended::Record(number) => self.pending.note(&commit.effects, number),
            Appended::NoRoom(_) => {
                self.bring_all_in()?;
                self.file.database().apply(&commit.effects)?;
                // Who syncs the journal takes everything before it for durable.
                self.file.sync_log()?;
            }
        }
        self.rows.note(commit);
        self.note_orphans(&commit.effects);
        crash::point("commit.after");
        Ok(())
    }

    /// The journal, ready to be appended to.
    fn journal(&mut self) -> Result<&mut Journal> {
        if self.torn {
            self.begin_anew()?;
        }
        if self.journal.is_none() {
            let brought_in = self.file.database().brought_in();
            self.journal = Some(Journal::create(&self.file.directory, brought_in)?);
        }
        self.journal.as_mut().ok_or(ViewError::ReadOnly)
    }

    /// How many effects the file lacks that nobody is bringing in.
    pub(crate) fn backlog(&self) -> usize {
        self.pending.noted()
    }

    /// What is to be brought in, if anything is; what was taken before and not finished comes first.
    pub(crate) fn bring_in(&mut self) -> Result<Option<Bringing>> {
        if self.bringing.as_ref().is_some_and(|batch| batch.is_brought_in()) {
            self.bringing = None;
        }
        if self.bringing.is_none() {
            if self.pending.is_empty() {
                return Ok(None);
            }
            self.bringing = Some(Arc::new(std::mem::take(&mut self.pending)));
        }
        let mut checkpoint = false;
        if let Some(journal) = &mut self.journal
            && journal.is_long()
        {
            journal.switch(self.file.durable.load(Ordering::Acquire))?;
            checkpoint = true;
        }
        let bringing = |batch| Bringing { file: Arc::clone(&self.file), batch, checkpoint };
        Ok(self.bringing.clone().map(bringing))
    }

    /// Brings everything into the file, which then says it as whoever reads it alone needs it.
    fn bring_all_in(&mut self) -> Result<()> {
        while let Some(bringing) = self.bring_in()? {
            bringing.file.bring_in(&bringing.batch, usize::MAX)?;
        }
        if self.orphans.values().any(Option::is_some) {
            self.file.database().settle_orphans()?;
            self.orphans.values_mut().for_each(|since| *since = None);
        }
        Ok(())
    }

    /// The file when it says everything.
    fn settled(&mut self) -> Result<MutexGuard<'_, Database>> {
        self.bring_all_in()?;
        Ok(self.file.database())
    }

    /// Moves everything into the file, durable.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.bring_all_in()?;
        self.file.checkpoint()
    }

    /// Makes the journal one that can be appended to whatever was in it: it is empty afterwards, and the file has all of
    /// it, durable.
    pub(crate) fn begin_anew(&mut self) -> Result<()> {
        self.checkpoint()?;
        if let Some(journal) = &mut self.journal {
            journal.begin_anew()?;
        }
        self.torn = false;
        Ok(())
    }

    /// Goes on in the journal's other region, now.
    fn make_room(&mut self) -> Result<()> {
        let durable = self.file.durable.load(Ordering::Acquire);
        if self.journal()?.switch(durable)? {
            return Ok(());
        }
        self.checkpoint()?;
        let durable = self.file.durable.load(Ordering::Acquire);
        self.journal()?.switch(durable).map(drop)
    }

    /// As [`close`](Self::close), for a layer that nobody writes any more: fails unless everything is in one file, which
    /// `SQLite` itself would keep to itself.
    pub(crate) fn close_whole(self) -> Result<()> {
        let directory = self.file.directory.clone();
        self.close()?;
        match directory.join(LOG).try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => Err(ViewError::Latched("the catalog's log was not brought into its file".to_owned())),
            Err(source) => Err(ViewError::Host { what: "look into a layer", source }),
        }
    }

    /// Closes the catalog, which leaves everything in one file, durable, readable as a frozen layer. Nobody brings
    /// anything in meanwhile.
    pub(crate) fn close(mut self) -> Result<()> {
        self.checkpoint()?;
        let Self { file, claim, journal, .. } = self;
        drop(journal);
        let file = Arc::into_inner(file)
            .ok_or_else(|| ViewError::Latched("the catalog is closed while it is written".to_owned()))?;
        file.database.into_inner().unwrap_or_else(PoisonError::into_inner).close()?;
        crash::point("journal.before-remove");
        Journal::remove(&file.directory)?;
        drop(claim);
        Ok(())
    }
}

impl CatalogFile {
    /// The database, when nobody else uses it.
    fn database(&self) -> MutexGuard<'_, Database> {
        if let Ok(database) = self.database.try_lock() {
            return database;
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        database
    }

    fn bring_in(&self, batch: &Batch, most: usize) -> Result<bool> {
        let done = self.database().bring_in(batch, most)?;
        if done {
            batch.set_brought_in();
        }
        Ok(done)
    }

    /// Makes everything that was brought in durable: in the file, so that its log and the journal can begin anew. The log
    /// is synced first, while others may still read the file.
    fn checkpoint(&self) -> Result<()> {
        self.sync_log()?;
        let database = self.database();
        let brought_in = database.brought_in();
        database.checkpoint()?;
        self.durable.fetch_max(brought_in, Ordering::AcqRel);
        Ok(())
    }

    /// Makes the file's log durable, if there is one. The descriptor is the log's own, kept open: opening the file itself
    /// beside `SQLite` would drop its locks on closing.
    fn sync_log(&self) -> Result<()> {
        let log = if let Some(log) = self.log.get() {
            log
        } else {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::open(self.directory.join(LOG), flags, Mode::empty()) {
                Ok(log) => self.log.get_or_init(|| log),
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(ViewError::host("open the catalog's log")(error)),
            }
        };
        rustix::fs::fdatasync(log).map_err(ViewError::host("fdatasync of the catalog's log"))
    }
}

impl Bringing {
    /// Brings it in, in slices, so that who reads the file meanwhile does not wait for all of it.
    ///
    /// # Errors
    /// When the disk fails or is full; nothing is lost then, and the next who brings anything in begins with this.
    pub(crate) fn run(self) -> Result<()> {
        while !self.file.bring_in(&self.batch, SLICE)? {
            if self.file.waiting.load(Ordering::Acquire) > 0 {
                std::thread::sleep(YIELD);
            }
        }
        if self.checkpoint { self.file.checkpoint() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
