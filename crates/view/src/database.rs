//! The file in which a catalog keeps its rows: one `SQLite` database.
//!
//! Its connection locks it exclusively: commits then cost no shared memory and no file locks. What is committed is in the
//! kernel's page cache, so the death of the process cannot lose it.

use crate::catalog::{NameRow, Row, Scan, Unsettled};
use crate::commit::Effect;
use crate::crash;
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode};
use crate::old_rows;
use crate::pending::Batch;
use crate::record;
use crate::sys::system_errno;
use foldhash::{HashMap, HashSet};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use selvedge_store::{FileKind, Ino, Timestamp};
use std::path::Path;
use writer::Writer;

mod writer;

/// Version of a catalog's schema and journal; one that is not known is refused.
pub const FORMAT: u32 = 3;

/// The oldest version that is known.
const OLDEST_FORMAT: u32 = 1;

/// The last version that has a column for each field of a node.
const LAST_IN_COLUMNS: u32 = 2;

const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE nodes(ino INTEGER PRIMARY KEY, row BLOB NOT NULL) STRICT;
CREATE TABLE fallbacks(ino INTEGER PRIMARY KEY) STRICT;
CREATE TABLE names(parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, kind INTEGER NOT NULL,
    PRIMARY KEY(parent, name)) STRICT, WITHOUT ROWID;
CREATE TABLE orphans(ino INTEGER PRIMARY KEY, ctime_s INTEGER, ctime_ns INTEGER) STRICT;
CREATE TABLE unsettled(parent INTEGER NOT NULL, name BLOB NOT NULL, old INTEGER NOT NULL,
    source INTEGER NOT NULL, from_parent INTEGER NOT NULL, from_name BLOB NOT NULL,
    PRIMARY KEY(parent, name)) STRICT, WITHOUT ROWID;
";

/// Rows that are looked for by what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Those whose bodies may speak of what is beneath the layer: directories, and files with working files.
    OnOthers,
    /// Patched files.
    Patched,
    /// Those with a fallback.
    WithFallback,
}

impl Wanted {
    /// Whether the row is one of them.
    pub(crate) fn is(self, row: &Inode) -> bool {
        match self {
            Self::OnOthers => row.is_dir() || row.body.layer().is_some() || row.fallback.is_some(),
            Self::Patched => matches!(row.body, Body::Patched(_)),
            Self::WithFallback => row.fallback.is_some(),
        }
    }
}

/// One catalog's database.
#[derive(Debug)]
pub(crate) struct Database {
    db: Connection,
    /// How many effects of the batch that is being brought in are in the transaction that is open; 0 if none is.
    at: usize,
    /// The number of the last record of the journal that has been brought in.
    brought_in: u64,
    /// It is one of a layer that nobody writes any more, and has a column for each field of a node.
    in_columns: bool,
    /// The nodes that it says have a fallback, when that was asked: mostly there are none, and who writes a row need not
    /// ask then.
    fallbacks: Option<HashSet<Ino>>,
}

impl Database {
    /// Makes the database of a new layer.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        configure(&db)?;
        db.execute_batch(SCHEMA)?;
        let database = Self::new(db);
        database.set_meta("format", i64::from(FORMAT))?;
        Ok(database)
    }

    /// Opens that of a layer that is written.
    pub(crate) fn open_upper(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        configure(&db)?;
        let mut database = Self::checked(db)?;
        if database.in_columns {
            old_rows::convert(&mut database.db, FORMAT)?;
            database.in_columns = false;
        }
        Ok(database)
    }

    /// Opens that of a layer that nobody writes: any number of processes may read it unlocked.
    pub(crate) fn open_frozen(path: &Path) -> Result<Self> {
        let mut uri = b"file:".to_vec();
        for &byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(byte),
                _ => uri.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
        uri.extend_from_slice(b"?immutable=1");
        let uri = String::from_utf8_lossy(&uri).into_owned();
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(uri, flags)?;
        db.pragma_update(None, "temp_store", "MEMORY")?;
        db.set_prepared_statement_cache_capacity(32);
        Self::checked(db)
    }

    fn new(db: Connection) -> Self {
        Self { db, at: 0, brought_in: 0, in_columns: false, fallbacks: None }
    }

    fn checked(db: Connection) -> Result<Self> {
        let mut database = Self::new(db);
        match database.meta::<i64>("format")? {
            Some(found) if (i64::from(OLDEST_FORMAT)..=i64::from(FORMAT)).contains(&found) => {
                database.in_columns = found <= i64::from(LAST_IN_COLUMNS);
            }
            found => return Err(ViewError::CatalogFormat { found, known: i64::from(FORMAT) }),
        }
        database.brought_in = database.meta::<i64>("brought_in")?.map_or(0, unsigned);
        Ok(database)
    }

    /// What is noted under `key`.
    pub(crate) fn meta<T: rusqlite::types::FromSql>(&self, key: &str) -> Result<Option<T>> {
        let mut statement = self.db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }

    /// Notes `value` under `key`.
    pub(crate) fn set_meta<T: rusqlite::ToSql>(&self, key: &str, value: T) -> Result<()> {
        set_meta(&self.db, key, value)
    }

    /// Marks it as in use under this boot, which a successor finds done.
    pub(crate) fn begin_use(&self, boot_id: &str) -> Result<()> {
        if self.meta::<String>("boot")?.as_deref() != Some(boot_id) {
            self.set_meta("boot", boot_id)?;
        }
        if self.meta::<i64>("orderly")? != Some(0) {
            self.set_meta("orderly", 0)?;
        }
        Ok(())
    }

    /// The number of the last record of the journal that has been brought in; 0 if none has.
    pub(crate) fn brought_in(&self) -> u64 {
        self.brought_in
    }

    /// The numbers of nodes that have a row, at most so many.
    pub(crate) fn numbers(&self, most: u64) -> Result<HashSet<Ino>> {
        let table = if self.in_columns { old_rows::TABLE } else { "nodes" };
        let mut statement = self.db.prepare_cached(&format!("SELECT ino FROM {table} LIMIT ?1"))?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = statement.query_map([most], |row| row.get(0))?;
        rows.map(|ino| Ok(Ino(unsigned(ino?)))).collect()
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        let sql = if self.in_columns { old_rows::ONE } else { "SELECT ino, row FROM nodes WHERE ino = ?1" };
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([signed(ino.0)])?;
        rows.next()?.map(|row| self.read_inode(row)).transpose()
    }

    pub(crate) fn inodes(&self, wanted: Wanted) -> Result<Vec<Inode>> {
        let mut found = Vec::new();
        if wanted == Wanted::WithFallback && !self.in_columns {
            for ino in read_fallbacks(&self.db)? {
                found.extend(self.inode(ino)?);
            }
            return Ok(found);
        }
        self.each_inode(|inode| {
            let inode = inode?;
            if wanted.is(&inode) {
                found.push(inode);
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Shows all rows, or what is wrong with them, until `look` tells that it has seen enough.
    fn each_inode(&self, mut look: impl FnMut(Result<Inode>) -> Result<bool>) -> Result<()> {
        let sql = if self.in_columns { old_rows::ALL } else { "SELECT ino, row FROM nodes" };
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if !look(self.read_inode(row))? {
                break;
            }
        }
        Ok(())
    }

    fn read_inode(&self, row: &rusqlite::Row<'_>) -> Result<Inode> {
        if self.in_columns {
            return old_rows::read_inode(row);
        }
        let ino = Ino(unsigned(row.get(0)?));
        let damaged = || ViewError::Damaged { ino, why: "unreadable row".to_owned() };
        let bytes = row.get_ref(1)?.as_blob().map_err(|_| damaged())?;
        record::decode_row(bytes).filter(|inode| inode.ino == ino).ok_or_else(damaged)
    }

    pub(crate) fn name(&self, parent: Ino, name: &[u8]) -> Result<Option<NameRow>> {
        let mut statement =
            self.db.prepare_cached("SELECT ino, kind FROM names WHERE parent = ?1 AND name = ?2")?;
        let mut rows = statement.query(params![signed(parent.0), name])?;
        rows.next()?.map(|row| read_name(parent, row, 0)).transpose()
    }

    /// Whether there is any name in `parent`.
    pub(crate) fn speaks_of(&self, parent: Ino) -> Result<bool> {
        let mut statement =
            self.db.prepare_cached("SELECT EXISTS (SELECT 1 FROM names WHERE parent = ?1)")?;
        Ok(statement.query_row([signed(parent.0)], |row| row.get(0))?)
    }

    pub(crate) fn all_names(&self) -> Result<Vec<(Ino, Vec<u8>, NameRow)>> {
        let mut statement = self.db.prepare("SELECT parent, name, ino, kind FROM names")?;
        let mut rows = statement.query([])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            let parent = Ino(unsigned(row.get(0)?));
            names.push((parent, row.get(1)?, read_name(parent, row, 2)?));
        }
        Ok(names)
    }

    pub(crate) fn names(&self, parent: Ino) -> Result<Vec<(Vec<u8>, NameRow)>> {
        let mut statement = self.db.prepare_cached("SELECT name, ino, kind FROM names WHERE parent = ?1")?;
        let mut rows = statement.query([signed(parent.0)])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            names.push((row.get(0)?, read_name(parent, row, 1)?));
        }
        Ok(names)
    }

    /// Adds what is not in `scan` yet.
    pub(crate) fn scan(&self, scan: &mut Scan) -> Result<()> {
        self.each_inode(|inode| {
            let Inode { ino, kind, nlink, parent, .. } = inode?;
            scan.rows.entry(ino).or_insert(Row { kind, nlink, parent });
            Ok(true)
        })?;
        let mut statement = self.db.prepare_cached("SELECT DISTINCT parent FROM names")?;
        let parents = statement.query_map([], |row| row.get(0))?;
        for parent in parents {
            scan.parents.insert(Ino(unsigned(parent?)));
        }
        Ok(())
    }

    /// The nodes without a name, each with when it lost its last one if its row does not say so.
    pub(crate) fn orphans(&self) -> Result<HashMap<Ino, Option<Timestamp>>> {
        let mut statement = self.db.prepare("SELECT ino, ctime_s, ctime_ns FROM orphans")?;
        let rows = statement.query_map([], |row| {
            let since: (Option<i64>, Option<u32>) = (row.get(1)?, row.get(2)?);
            let since = since.0.zip(since.1).map(|(sec, nsec)| Timestamp { sec, nsec });
            Ok((Ino(unsigned(row.get(0)?)), since))
        })?;
        rows.map(|row| Ok(row?)).collect()
    }

    /// Has the rows of all nodes without a name say so themselves.
    pub(crate) fn settle_orphans(&mut self) -> Result<()> {
        let orphans = self.orphans()?.into_iter().filter_map(|(ino, since)| Some((ino, since?)));
        let mut effects = Vec::new();
        for (ino, since) in orphans {
            if let Some(row) = self.inode(ino)? {
                effects.push(Effect::PutInode(row.without_name(since).into()));
            }
            effects.push(Effect::AddOrphan { ino, since: None });
        }
        self.apply(&effects)
    }

    pub(crate) fn unsettled(&self) -> Result<Vec<Unsettled>> {
        let mut statement =
            self.db.prepare("SELECT parent, name, old, source, from_parent, from_name FROM unsettled")?;
        let rows = statement.query_map([], |row| {
            Ok(Unsettled {
                parent: Ino(unsigned(row.get(0)?)),
                name: row.get(1)?,
                old: Ino(unsigned(row.get(2)?)),
                source: Ino(unsigned(row.get(3)?)),
                from: (Ino(unsigned(row.get(4)?)), row.get(5)?),
            })
        })?;
        rows.map(|row| Ok(row?)).collect()
    }

    /// Where the bytes of all nodes are, and those that these may fall back to.
    pub(crate) fn bodies(&self) -> Result<Vec<Body>> {
        let mut bodies = Vec::new();
        self.each_inode(|inode| {
            let inode = inode?;
            bodies.push(inode.body);
            bodies.extend(inode.fallback);
            Ok(true)
        })?;
        Ok(bodies)
    }

    /// What is wrong with the database file, and the rows that cannot be read.
    pub(crate) fn problems(&self) -> Result<Vec<String>> {
        let mut statement = self.db.prepare("PRAGMA integrity_check(20)")?;
        let lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        let mut problems: Vec<String> = lines.into_iter().filter(|line| line != "ok").collect();
        self.each_inode(|inode| {
            problems.extend(inode.err().map(|error| error.to_string()));
            Ok(true)
        })?;
        let mut statement = self.db.prepare("SELECT parent, ino, kind FROM names")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let parent = Ino(unsigned(row.get(0)?));
            problems.extend(read_name(parent, row, 1).err().map(|error| error.to_string()));
        }
        Ok(problems)
    }

    /// Whether anything is said of nodes that have a name, or of names.
    pub(crate) fn says_anything(&self) -> Result<bool> {
        let mut statement = self.db.prepare_cached("SELECT EXISTS (SELECT 1 FROM names)")?;
        let mut says: bool = statement.query_row([], |row| row.get(0))?;
        self.each_inode(|inode| {
            says |= inode?.nlink > 0;
            Ok(!says)
        })?;
        Ok(says)
    }

    /// Brings at most `most` effects of `batch` in; tells whether all of them are. Nobody begins another batch before, and
    /// until then the effects that are in are read through the batch.
    pub(crate) fn bring_in(&mut self, batch: &Batch, most: usize) -> Result<bool> {
        if batch.last() <= self.brought_in {
            return Ok(true);
        }
        let done = self.try_bring_in(batch, most);
        if done.is_err() {
            self.at = 0;
            self.fallbacks = None;
            if !self.db.is_autocommit() {
                self.db.execute_batch("ROLLBACK")?;
            }
        }
        self.told_of_quota("bring the journal into the catalog", done)
    }

    fn try_bring_in(&mut self, batch: &Batch, most: usize) -> Result<bool> {
        let effects = batch.effects();
        if self.db.is_autocommit() {
            self.db.execute_batch("BEGIN IMMEDIATE")?;
        }
        let end = self.at.saturating_add(most).min(effects.len());
        let mut writer = Writer::new(&self.db, &mut self.fallbacks);
        for effect in effects.get(self.at..end).unwrap_or_default() {
            writer.apply(effect)?;
        }
        drop(writer);
        self.at = end;
        if end < effects.len() {
            return Ok(false);
        }
        set_meta(&self.db, "brought_in", signed(batch.last()))?;
        // The mark that it is in use may have been lost with the power, while the journal was not.
        set_meta(&self.db, "orderly", 0)?;
        crash::point("journal.before-commit");
        self.db.execute_batch("COMMIT")?;
        self.at = 0;
        self.brought_in = batch.last();
        crash::point("journal.after-commit");
        Ok(true)
    }

    /// Applies effects that are in no journal, whole.
    pub(crate) fn apply(&mut self, effects: &[Effect]) -> Result<()> {
        let done = self.try_apply(effects);
        if done.is_err() {
            self.fallbacks = None;
        }
        self.told_of_quota("commit", done)
    }

    fn try_apply(&mut self, effects: &[Effect]) -> Result<()> {
        let transaction = self.db.transaction()?;
        let mut writer = Writer::new(&transaction, &mut self.fallbacks);
        for effect in effects {
            writer.apply(effect)?;
        }
        drop(writer);
        Ok(transaction.commit()?)
    }

    /// `SQLite` knows a full disk and takes a quota that is used up for a failing one. Nothing was written, either
    /// way, and there may be room again.
    fn told_of_quota<T>(&self, what: &'static str, done: Result<T>) -> Result<T> {
        match done {
            Err(ViewError::Catalog(error))
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
                    && system_errno(&self.db) == libc::EDQUOT =>
            {
                Err(ViewError::Host { what, source: std::io::Error::from_raw_os_error(libc::EDQUOT) })
            }
            done => done,
        }
    }

    /// Moves committed pages into the file, durable, so that the log starts again at its beginning. No transaction is
    /// open.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        crash::point("checkpoint.before");
        let (mut busy, mut logged, mut moved): (i64, i64, i64) = (0, 0, 0);
        let done = self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            (busy, logged, moved) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(())
        });
        self.told_of_quota("checkpoint", done.map_err(ViewError::from))?;
        if busy != 0 || logged != moved {
            return Err(ViewError::Latched(format!("checkpoint moved {moved} of {logged} pages")));
        }
        Ok(())
    }

    /// Closes the file, which leaves everything in it, readable as a frozen layer's.
    pub(crate) fn close(self) -> Result<()> {
        self.db.close().map_err(|(_, error)| error.into())
    }
}

fn set_meta<T: rusqlite::ToSql>(db: &Connection, key: &str, value: T) -> Result<()> {
    let mut statement = db.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)")?;
    statement.execute(params![key, value])?;
    Ok(())
}

fn configure(db: &Connection) -> Result<()> {
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn read_fallbacks(db: &Connection) -> Result<HashSet<Ino>> {
    let mut statement = db.prepare_cached("SELECT ino FROM fallbacks")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.map(|ino| Ok(Ino(unsigned(ino?)))).collect()
}

fn read_name(parent: Ino, row: &rusqlite::Row<'_>, at: usize) -> Result<NameRow> {
    let ino = unsigned(row.get(at)?);
    if ino == 0 {
        return Ok(NameRow::Whiteout);
    }
    let kind = FileKind::from_code(row.get(at + 1)?)
        .ok_or_else(|| ViewError::Damaged { ino: parent, why: "a name of unknown kind".to_owned() })?;
    Ok(NameRow::Node { ino: Ino(ino), kind })
}

/// SQLite's integers are signed; the bits are kept.
pub(crate) fn signed(value: u64) -> i64 {
    value.cast_signed()
}

pub(crate) fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}
