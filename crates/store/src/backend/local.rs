//! Objects on a disk.

use super::{Backend, StagedBlob};
use crate::gc::{Removed, Spare};
use crate::latch::Latch;
use crate::sqlite::{self, Room, Sync};
use crate::{ObjectId, ObjectKind, StoreError};
use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Blobs of at least this many bytes get a file of their own: measured, see
/// `docs/design/store-threshold.md`.
pub const DEFAULT_LARGE_BLOB: u64 = 64 * 1024;

/// Objects wait in memory until they have this many bytes together, or a `sync`.
const PENDING_BYTES: usize = 1 << 20;

/// The longest that one transaction keeps other writers out.
const TRANSACTION: Duration = Duration::from_millis(4);

/// How much is written to the log before it is moved into the database.
const CHECKPOINT_BYTES: usize = 16 << 20;

/// About how much of the log the removal of an object takes: a page or two.
const REMOVAL_LOG_BYTES: usize = 8192;

/// How much of two files is compared at a time.
const COMPARED_BYTES: usize = 256 * 1024;

/// How many idle connections are kept for readers.
const IDLE_READERS: usize = 8;

const SCHEMA: &str = "
    CREATE TABLE objects (
        kind INTEGER NOT NULL,
        id BLOB NOT NULL,
        bytes BLOB NOT NULL,
        PRIMARY KEY (kind, id)
    );
    CREATE TABLE syncs (only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL);
    INSERT INTO syncs VALUES (1, 0);
";

/// Objects in a repository: small ones in one SQLite database that several processes may open,
/// large blobs as plain read-only files. No transaction stays open between calls, so a writer that
/// stops to think keeps nobody waiting.
#[derive(Debug)]
pub struct LocalBackend {
    database: PathBuf,
    blobs: PathBuf,
    tmp: PathBuf,
    large_blob: u64,
    writer: Mutex<Writer>,
    pending: Mutex<Pending>,
    readers: Mutex<Vec<Connection>>,
    /// Blob directories with names that are perhaps not synced, by their first byte.
    unsynced: Mutex<BTreeSet<u8>>,
    latch: Latch,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    since_checkpoint: usize,
}

type Batch = HashMap<(ObjectKind, ObjectId), Arc<[u8]>>;

/// What is not in the database yet. Readers look here first, so what is being written stays
/// visible while it is.
#[derive(Debug, Default)]
struct Pending {
    waiting: Batch,
    waiting_bytes: usize,
    writing: Arc<Batch>,
}

/// Where an object was found.
enum Place {
    Database,
    File,
}

impl LocalBackend {
    /// Makes an empty store in the existing directory `repository`.
    pub fn create(repository: &Path) -> Result<(), StoreError> {
        let database = repository.join("objects.db");
        sqlite::create(&database, SCHEMA, Room::Returnable).map_err(|source| StoreError::Database {
            path: database,
            what: "cannot create the object database",
            source,
        })?;
        for name in ["blobs", "tmp"] {
            let path = repository.join(name);
            rustix::fs::mkdir(&path, Mode::RWXU).map_err(|error| StoreError::Io {
                path,
                what: "cannot make the directory",
                source: error.into(),
            })?;
        }
        Ok(())
    }

    /// Opens the store in the directory `repository`.
    pub fn open(repository: &Path) -> Result<Self, StoreError> {
        Self::open_with(repository, DEFAULT_LARGE_BLOB)
    }

    /// Opens the store with another limit between small and large blobs. Stores with different
    /// limits read each other's blobs.
    pub fn open_with(repository: &Path, large_blob: u64) -> Result<Self, StoreError> {
        let database = repository.join("objects.db");
        let connection = open_database(&database, Sync::Normal)?;
        Ok(Self {
            database,
            blobs: repository.join("blobs"),
            tmp: repository.join("tmp"),
            large_blob,
            writer: Mutex::new(Writer { connection, since_checkpoint: 0 }),
            pending: Mutex::default(),
            readers: Mutex::default(),
            unsynced: Mutex::default(),
            latch: Latch::default(),
        })
    }

    fn check_latch(&self) -> Result<(), StoreError> {
        match self.latch.cause() {
            None => Ok(()),
            Some(cause) => Err(StoreError::Latched { cause: cause.to_owned() }),
        }
    }

    fn database_error(&self, what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
        move |source| StoreError::Database { path: self.database.clone(), what, source }
    }

    /// Remembers a failed write unless it leaves nothing in doubt.
    fn note(&self, error: StoreError) -> StoreError {
        match &error {
            StoreError::Database { source, .. } if sqlite::is_passing(source) => {}
            _ => self.latch.set(&error),
        }
        error
    }

    fn with_reader<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let idle = lock(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open_database(&self.database, Sync::Normal)?,
        };
        let answer = read(&connection).map_err(self.database_error("cannot read an object"))?;
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(connection);
        }
        Ok(answer)
    }

    fn pending_bytes(&self, key: &(ObjectKind, ObjectId)) -> Option<Arc<[u8]>> {
        let pending = lock(&self.pending);
        pending.waiting.get(key).or_else(|| pending.writing.get(key)).map(Arc::clone)
    }

    /// Writes what waits to the database.
    fn flush(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let batch = {
            let mut pending = lock(&self.pending);
            pending.waiting_bytes = 0;
            pending.writing = Arc::new(std::mem::take(&mut pending.waiting));
            Arc::clone(&pending.writing)
        };
        let written = write_batch(&mut writer.connection, &batch);
        let mut pending = lock(&self.pending);
        match written {
            Ok(bytes) => {
                pending.writing = Arc::default();
                drop(pending);
                writer.since_checkpoint += bytes;
                self.checkpoint_if_due(writer)
            }
            Err(source) => {
                // Nothing is lost: the next attempt writes all of it again.
                for (key, bytes) in std::mem::take(&mut pending.writing).iter() {
                    pending.waiting_bytes += bytes.len();
                    pending.waiting.insert(*key, Arc::clone(bytes));
                }
                drop(pending);
                Err(self.note(self.database_error("cannot write objects")(source)))
            }
        }
    }

    fn checkpoint_if_due(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.since_checkpoint < CHECKPOINT_BYTES {
            return Ok(());
        }
        sqlite::checkpoint(&writer.connection)
            .map_err(|source| self.note(self.database_error("cannot checkpoint")(source)))?;
        writer.since_checkpoint = 0;
        Ok(())
    }

    fn find(&self, kind: ObjectKind, id: &ObjectId) -> Result<Option<Place>, StoreError> {
        if self.pending_bytes(&(kind, *id)).is_some() {
            return Ok(Some(Place::Database));
        }
        let stored = self.with_reader(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM objects WHERE kind = ?1 AND id = ?2")?
                .exists(params![kind.code(), id.as_bytes()])
        })?;
        if stored {
            return Ok(Some(Place::Database));
        }
        let file = kind == ObjectKind::Blob && self.blob_file_size(id)?.is_some();
        Ok(file.then_some(Place::File))
    }

    fn blob_dir(&self, first: u8) -> PathBuf {
        self.blobs.join(format!("{first:02x}"))
    }

    fn blob_path(&self, id: &ObjectId) -> PathBuf {
        self.blob_dir(id.as_bytes()[0]).join(id.to_string())
    }

    fn blob_file_size(&self, id: &ObjectId) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(id);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { path, what: "cannot look for a blob", source }),
        }
    }

    /// Whether the blob has a file with the bytes of `other`.
    fn holds_blob(&self, id: &ObjectId, other: &File) -> Result<bool, StoreError> {
        let Some(file) = self.open_blob_file(id)? else { return Ok(false) };
        compare_files(&file, other).or_else(|error| {
            tracing::warn!(%error, %id, "a blob that cannot be read is replaced");
            Ok(false)
        })
    }

    /// Removes the file of a blob that has one; tells how much space it took.
    fn remove_blob_file(&self, id: &ObjectId) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(id);
        let failed = |source| StoreError::Io { path: path.clone(), what: "cannot remove a blob", source };
        let blocks = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.blocks(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(Some(blocks * 512))
    }

    /// The names in one blob directory, in order.
    fn blob_names(&self, first: u8) -> Result<Vec<ObjectId>, StoreError> {
        let path = self.blob_dir(first);
        let failed = |source| StoreError::Io { path: path.clone(), what: "cannot list blobs", source };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse::<ObjectId>().ok()));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Syncs the blob directories, and `blobs` itself, which holds their names.
    fn sync_blob_dirs(&self) -> Result<(), StoreError> {
        let unsynced = std::mem::take(&mut *lock(&self.unsynced));
        if unsynced.is_empty() {
            return Ok(());
        }
        for path in unsynced.iter().map(|&first| self.blob_dir(first)).chain([self.blobs.clone()]) {
            File::open(&path)
                .and_then(|directory| directory.sync_all())
                .map_err(|source| StoreError::Io { path, what: "cannot sync the directory", source })?;
        }
        Ok(())
    }

    fn keep_staged(&self, id: &ObjectId, staged: &mut StagedBlob) -> Result<(), StoreError> {
        let path = self.blob_path(id);
        let failed = |what, source: io::Error| StoreError::Io { path: path.clone(), what, source };
        let dir = self.blob_dir(id.as_bytes()[0]);
        match rustix::fs::mkdir(&dir, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed("cannot make the blob's directory", error.into())),
        }
        let read_only = Mode::RUSR | Mode::RGRP | Mode::ROTH;
        rustix::fs::fchmod(&staged.file, read_only)
            .map_err(|error| failed("cannot make the blob read-only", error.into()))?;
        if let Err(error) = staged.file.sync_data() {
            return Err(self.note(failed("cannot sync the blob", error)));
        }
        if let Some(temporary) = &staged.path {
            rustix::fs::rename(temporary, &path)
                .map_err(|error| failed("cannot rename the blob into place", error.into()))?;
        }
        // It has its final name now, so dropping it must remove nothing.
        staged.path = None;
        Ok(())
    }
}

impl Backend for LocalBackend {
    fn get(&self, kind: ObjectKind, id: &ObjectId) -> Result<Option<Arc<[u8]>>, StoreError> {
        if let Some(bytes) = self.pending_bytes(&(kind, *id)) {
            return Ok(Some(bytes));
        }
        self.with_reader(|connection| {
            connection
                .prepare_cached("SELECT bytes FROM objects WHERE kind = ?1 AND id = ?2")?
                .query_row(params![kind.code(), id.as_bytes()], |row| {
                    Ok(Arc::from(row.get_ref(0)?.as_blob()?))
                })
                .optional()
        })
    }

    fn has(&self, kind: ObjectKind, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.find(kind, id)?.is_some())
    }

    fn put(&self, kind: ObjectKind, id: &ObjectId, bytes: &[u8]) -> Result<bool, StoreError> {
        self.check_latch()?;
        match self.find(kind, id)? {
            None => {}
            Some(Place::Database) => return Ok(false),
            Some(Place::File) => {
                // Another process may have made the file and not synced its name yet.
                lock(&self.unsynced).insert(id.as_bytes()[0]);
                return Ok(false);
            }
        }
        let (new, due) = {
            let mut pending = lock(&self.pending);
            let new = pending.waiting.insert((kind, *id), Arc::from(bytes)).is_none();
            pending.waiting_bytes += if new { bytes.len() } else { 0 };
            (new, pending.waiting_bytes >= PENDING_BYTES)
        };
        if due {
            self.flush(&mut lock(&self.writer))?;
        }
        Ok(new)
    }

    fn stage_blob(&self) -> Result<StagedBlob, StoreError> {
        self.check_latch()?;
        let failed =
            |source| StoreError::Io { path: self.tmp.clone(), what: "cannot make a temporary file", source };
        let name = crate::LayerId::random().map_err(failed)?;
        let path = self.tmp.join(format!("blob-{name}"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        let staged = StagedBlob { file: file.into(), path: Some(path) };
        // Tells whoever sweeps `tmp/` that this file's writer is alive.
        rustix::fs::flock(&staged.file, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(staged)
    }

    fn put_blob_file(&self, id: &ObjectId, mut staged: StagedBlob) -> Result<bool, StoreError> {
        self.check_latch()?;
        // A file that is damaged is replaced. What is written is at hand, so this costs reading what is there.
        let new = !self.holds_blob(id, &staged.file)?;
        if new {
            self.keep_staged(id, &mut staged)?;
        }
        lock(&self.unsynced).insert(id.as_bytes()[0]);
        Ok(new)
    }

    fn open_blob_file(&self, id: &ObjectId) -> Result<Option<File>, StoreError> {
        let path = self.blob_path(id);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(StoreError::Io { path, what: "cannot open the blob", source: error.into() }),
        }
    }

    fn large_blob(&self) -> u64 {
        self.large_blob
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.check_latch()?;
        self.sync_blob_dirs().map_err(|error| self.note(error))?;
        let mut writer = lock(&self.writer);
        self.flush(&mut writer)?;
        sync_log(&writer.connection)
            .map_err(|source| self.note(self.database_error("cannot sync the object database")(source)))
    }

    fn remove(&self, kind: ObjectKind, ids: &[ObjectId]) -> Result<Removed, StoreError> {
        self.check_latch()?;
        let mut removed = {
            let mut writer = lock(&self.writer);
            let removed = remove_rows(&mut writer.connection, kind, ids)
                .map_err(|source| self.note(self.database_error("cannot remove objects")(source)))?;
            writer.since_checkpoint += ids.len() * REMOVAL_LOG_BYTES;
            self.checkpoint_if_due(&mut writer)?;
            removed
        };
        if kind == ObjectKind::Blob {
            for id in ids {
                if let Some(bytes) = self.remove_blob_file(id)? {
                    removed.count += 1;
                    removed.bytes += bytes;
                }
            }
        }
        Ok(removed)
    }

    fn give_back(&self) -> Result<Spare, StoreError> {
        self.check_latch()?;
        let failed =
            |source| self.note(self.database_error("cannot make the object database smaller")(source));
        let mut spare = Spare::default();
        loop {
            let mut writer = lock(&self.writer);
            let (pages, page, room) = sqlite::room(&writer.connection).map_err(failed)?;
            let given_back = match room {
                Room::Returnable if pages > 0 => {
                    sqlite::give_back(&mut writer.connection, TRANSACTION).map_err(failed)?
                }
                _ => 0,
            };
            if given_back == 0 {
                if spare.given_back > 0 {
                    // Only now the file gets shorter.
                    sqlite::checkpoint(&writer.connection).map_err(failed)?;
                    writer.since_checkpoint = 0;
                }
                spare.kept = pages * page;
                return Ok(spare);
            }
            spare.given_back += given_back * page;
            // A page goes to another's place, and whose it is is noted.
            writer.since_checkpoint += usize::try_from(2 * given_back * page).unwrap_or(CHECKPOINT_BYTES);
            self.checkpoint_if_due(&mut writer)?;
        }
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        self.with_reader(sqlite::check)
    }

    fn list(
        &self,
        kind: ObjectKind,
        first: &ObjectId,
        last: &ObjectId,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        let mut names: BTreeSet<ObjectId> = {
            let pending = lock(&self.pending);
            let all = pending.waiting.keys().chain(pending.writing.keys());
            all.filter(|(k, id)| *k == kind && (first..=last).contains(&id)).map(|(_, id)| *id).collect()
        };
        names.extend(self.with_reader(|connection| {
            let sql = "SELECT id FROM objects WHERE kind = ?1 AND id BETWEEN ?2 AND ?3 ORDER BY id LIMIT ?4";
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let range = params![kind.code(), first.as_bytes(), last.as_bytes(), limit];
            let mut statement = connection.prepare_cached(sql)?;
            let ids = statement.query_map(range, |row| row.get(0).map(ObjectId::from_bytes))?;
            ids.collect::<rusqlite::Result<Vec<_>>>()
        })?);
        if kind == ObjectKind::Blob {
            for directory in first.as_bytes()[0]..=last.as_bytes()[0] {
                names.extend(self.blob_names(directory)?.iter().filter(|id| (first..=last).contains(id)));
                if names.len() >= limit
                    && names.iter().nth(limit - 1).is_some_and(|id| id.as_bytes()[0] <= directory)
                {
                    break;
                }
            }
        }
        Ok(names.into_iter().take(limit).collect())
    }
}

/// Whether two files have the same bytes.
fn compare_files(one: &File, two: &File) -> io::Result<bool> {
    let size = one.metadata()?.len();
    if size != two.metadata()?.len() {
        return Ok(false);
    }
    let mut buffers = [vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]];
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(COMPARED_BYTES);
        for (file, buffer) in [one, two].into_iter().zip(&mut buffers) {
            file.read_exact_at(&mut buffer[..len], at)?;
        }
        if buffers[0][..len] != buffers[1][..len] {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}

fn open_database(path: &Path, sync: Sync) -> Result<Connection, StoreError> {
    sqlite::open(path, sync).map_err(|source| StoreError::Database {
        path: path.to_owned(),
        what: "cannot open the object database",
        source,
    })
}

/// Inserts the batch in as many transactions as keep each one short; tells how many bytes.
fn write_batch(connection: &mut Connection, batch: &Batch) -> rusqlite::Result<usize> {
    let mut left = batch.iter().peekable();
    let mut written = 0;
    while left.peek().is_some() {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let began = Instant::now();
        {
            let mut insert = transaction
                .prepare_cached("INSERT OR IGNORE INTO objects (kind, id, bytes) VALUES (?1, ?2, ?3)")?;
            while began.elapsed() < TRANSACTION
                && let Some(((kind, id), bytes)) = left.next()
            {
                insert.execute(params![kind.code(), id.as_bytes(), &**bytes])?;
                written += bytes.len();
            }
        }
        transaction.commit()?;
    }
    Ok(written)
}

/// Removes rows in one transaction, which the number of `ids` keeps short.
fn remove_rows(connection: &mut Connection, kind: ObjectKind, ids: &[ObjectId]) -> rusqlite::Result<Removed> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut removed = Removed::default();
    {
        let mut delete = transaction
            .prepare_cached("DELETE FROM objects WHERE kind = ?1 AND id = ?2 RETURNING length(bytes)")?;
        for id in ids {
            let bytes: Option<i64> =
                delete.query_row(params![kind.code(), id.as_bytes()], |row| row.get(0)).optional()?;
            removed.count += u64::from(bytes.is_some());
            removed.bytes += bytes.unwrap_or(0).unsigned_abs();
        }
    }
    transaction.commit()?;
    Ok(removed)
}

/// A transaction that writes nothing syncs nothing, so this one counts. The log is one file: the
/// sync covers everything any process committed to it before.
fn sync_log(connection: &Connection) -> rusqlite::Result<()> {
    sqlite::set_sync(connection, Sync::Full)?;
    let counted = connection.execute("UPDATE syncs SET count = count + 1", []);
    sqlite::set_sync(connection, Sync::Normal)?;
    counted.map(drop)
}

/// No code panics while it holds one of these locks in a state that matters, and the process
/// aborts on panic anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
