//! A layer's durable metadata: nodes, names, whiteouts, orphans and replaced names, in one SQLite database.
//!
//! Only the holder of the thread's lock opens the catalog of an upper, through one connection that locks the
//! database exclusively: commits then cost no shared memory and no file locks. A commit is in the kernel's page
//! cache when it returns, so the death of the process cannot lose it; [`crate::log_sync`] makes it durable.

use crate::body_codec;
use crate::claim::Claim;
use crate::commit::{Commit, Effect};
use crate::crash;
use crate::error::{Result, ViewError};
use crate::inode::{Applied, Body, Inode, Patch};
use crate::request::RequestKey;
use crate::rows::Rows;
use crate::sys::system_errno;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use selvedge_store::{FileKind, Ino, Timestamp, Xattrs};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Version of a catalog's schema; another one is refused.
pub const FORMAT: u32 = 1;

/// Effects after which a commit itself checkpoints: the bound on what a successor has to read, some 14 MiB. The
/// upkeep thread checkpoints long before. `SQLite` is not left to do it, as it keeps such a failure to itself.
pub(crate) const LOG_LIMIT_EFFECTS: u64 = 8_000;

/// Effects committed between two checkpoints: about 4 MiB of log. A checkpoint costs its length and some
/// milliseconds, all of it while mutations wait; a longer log costs a successor's start.
pub(crate) const CHECKPOINT_EFFECTS: u64 = 2_000;

const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE inodes(
    ino INTEGER PRIMARY KEY, kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL,
    gid INTEGER NOT NULL, nlink INTEGER NOT NULL, rdev INTEGER NOT NULL,
    atime_s INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, host_ctime_s INTEGER, host_ctime_ns INTEGER,
    parent INTEGER, body BLOB NOT NULL, fallback BLOB, xattrs BLOB NOT NULL,
    epoch INTEGER, request INTEGER, result INTEGER) STRICT;
CREATE INDEX fallbacks ON inodes(ino) WHERE fallback IS NOT NULL;
CREATE TABLE names(parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, kind INTEGER NOT NULL,
    PRIMARY KEY(parent, name)) STRICT, WITHOUT ROWID;
CREATE TABLE orphans(ino INTEGER PRIMARY KEY) STRICT;
CREATE TABLE unsettled(parent INTEGER NOT NULL, name BLOB NOT NULL, old INTEGER NOT NULL,
    source INTEGER NOT NULL, from_parent INTEGER NOT NULL, from_name BLOB NOT NULL,
    PRIMARY KEY(parent, name)) STRICT, WITHOUT ROWID;
";

const COLUMNS: &str = "ino, kind, mode, uid, gid, nlink, rdev, atime_s, atime_ns, mtime_s, mtime_ns, ctime_s, \
    ctime_ns, host_ctime_s, host_ctime_ns, parent, body, fallback, xattrs, epoch, request, result";

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
    db: Connection,
    /// Kept as long as the catalog is open for writing.
    claim: Option<Claim>,
    rows: Rows,
}

impl Catalog {
    /// Makes the catalog of a new layer.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        configure(&db)?;
        db.execute_batch(SCHEMA)?;
        let catalog = Self { db, claim: None, rows: Rows::default() };
        catalog.set_meta("format", i64::from(FORMAT))?;
        Ok(catalog)
    }

    /// Opens the catalog of a thread's upper, which only the holder of the thread's lock may do.
    pub(crate) fn open_upper(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        configure(&db)?;
        Self::checked(db)
    }

    /// Opens the catalog of a frozen layer: nobody writes it, so any number of processes may read it unlocked.
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

    /// Keeps others from opening it until it is closed.
    pub(crate) fn with_claim(self, claim: Claim) -> Self {
        Self { claim: Some(claim), ..self }
    }

    fn checked(db: Connection) -> Result<Self> {
        let catalog = Self { db, claim: None, rows: Rows::default() };
        match catalog.meta::<i64>("format")? {
            Some(found) if found == i64::from(FORMAT) => Ok(catalog),
            found => Err(ViewError::CatalogFormat { found, known: i64::from(FORMAT) }),
        }
    }

    fn meta<T: rusqlite::types::FromSql>(&self, key: &str) -> Result<Option<T>> {
        let mut statement = self.db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }

    fn set_meta<T: rusqlite::ToSql>(&self, key: &str, value: T) -> Result<()> {
        self.db.execute("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)", params![key, value])?;
        Ok(())
    }

    /// Marks the catalog as in use under this boot, which also brings its log into being.
    pub(crate) fn begin_use(&self, boot_id: &str) -> Result<()> {
        self.set_meta("boot", boot_id)?;
        self.set_meta("orderly", 0)
    }

    /// Marks the catalog as closed with everything durable.
    pub(crate) fn end_use(&self) -> Result<()> {
        self.set_meta("orderly", 1)
    }

    /// Whether its last user closed it with everything durable.
    pub(crate) fn ended_orderly(&self) -> Result<bool> {
        Ok(self.meta::<i64>("orderly")? == Some(1))
    }

    /// Marks the layer as one that stands on layers which may not be durable, or takes the mark away.
    pub(crate) fn set_unfounded(&self, unfounded: bool) -> Result<()> {
        self.set_meta("unfounded", i64::from(unfounded))
    }

    /// Whether the layer stands on layers which may not be durable.
    pub(crate) fn is_unfounded(&self) -> Result<bool> {
        Ok(self.meta::<i64>("unfounded")? == Some(1))
    }

    /// The boot under which it was last used.
    pub(crate) fn boot_id(&self) -> Result<Option<String>> {
        self.meta("boot")
    }

    /// Whether there is a row of the node, if that is known without asking the database. Where a directory has none, no
    /// name in it is spoken of either: who changes a directory's names writes its row.
    fn may_speak_of(&self, ino: Ino) -> Result<bool> {
        self.rows.may_have(ino, |most| {
            let mut statement = self.db.prepare_cached("SELECT ino FROM inodes LIMIT ?1")?;
            let rows = statement.query_map([signed(most)], |row| row.get(0))?;
            rows.map(|ino| Ok(Ino(unsigned(ino?)))).collect()
        })
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        if !self.may_speak_of(ino)? {
            return Ok(None);
        }
        let mut statement =
            self.db.prepare_cached(&format!("SELECT {COLUMNS} FROM inodes WHERE ino = ?1"))?;
        let mut rows = statement.query([signed(ino.0)])?;
        rows.next()?.map(read_inode).transpose()
    }

    /// Rows whose bodies may speak of what is beneath this layer: directories, and files with working files.
    pub(crate) fn rows_on_others(&self) -> Result<Vec<Inode>> {
        let mut statement = self.db.prepare(&format!(
            "SELECT {COLUMNS} FROM inodes WHERE kind = ?1 OR substr(body, 1, 1) IN (x'02', x'05') OR fallback IS NOT NULL"
        ))?;
        let mut rows = statement.query([FileKind::Directory.code()])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read_inode(row)?);
        }
        Ok(found)
    }

    /// The rows of patched files.
    pub(crate) fn patched(&self) -> Result<Vec<(Ino, Patch)>> {
        let mut statement =
            self.db.prepare("SELECT ino, body FROM inodes WHERE substr(body, 1, 1) = x'05'")?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let ino = Ino(unsigned(row.get(0)?));
            let bytes: Vec<u8> = row.get(1)?;
            match body_codec::decode(&bytes) {
                Some(Body::Patched(patch)) => found.push((ino, *patch)),
                _ => return Err(ViewError::Damaged { ino, why: "unreadable body".to_owned() }),
            }
        }
        Ok(found)
    }

    pub(crate) fn name(&self, parent: Ino, name: &[u8]) -> Result<Option<NameRow>> {
        if !self.may_speak_of(parent)? {
            return Ok(None);
        }
        let mut statement =
            self.db.prepare_cached("SELECT ino, kind FROM names WHERE parent = ?1 AND name = ?2")?;
        let mut rows = statement.query(params![signed(parent.0), name])?;
        rows.next()?.map(|row| read_name(parent, row, 0)).transpose()
    }

    /// Whether this layer says anything of the names in `parent`.
    pub(crate) fn speaks_of(&self, parent: Ino) -> Result<bool> {
        let mut statement =
            self.db.prepare_cached("SELECT EXISTS (SELECT 1 FROM names WHERE parent = ?1)")?;
        Ok(statement.query_row([signed(parent.0)], |row| row.get(0))?)
    }

    /// The nodes that this layer has a row of.
    pub(crate) fn numbers(&self) -> Result<Vec<Ino>> {
        let mut statement = self.db.prepare("SELECT ino FROM inodes")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.map(|ino| Ok(Ino(unsigned(ino?)))).collect()
    }

    /// Everything this layer says of names.
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

    /// Everything this layer says of the names in `parent`.
    pub(crate) fn names(&self, parent: Ino) -> Result<Vec<(Vec<u8>, NameRow)>> {
        if !self.may_speak_of(parent)? {
            return Ok(Vec::new());
        }
        let mut statement = self.db.prepare_cached("SELECT name, ino, kind FROM names WHERE parent = ?1")?;
        let mut rows = statement.query([signed(parent.0)])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            names.push((row.get(0)?, read_name(parent, row, 1)?));
        }
        Ok(names)
    }

    /// Adds what this layer says where no layer above it has said it.
    pub(crate) fn scan(&self, scan: &mut Scan) -> Result<()> {
        let mut statement = self.db.prepare_cached("SELECT ino, kind, nlink, parent FROM inodes")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let ino = Ino(unsigned(row.get(0)?));
            let kind = FileKind::from_code(row.get(1)?)
                .ok_or_else(|| ViewError::Damaged { ino, why: "unknown kind".to_owned() })?;
            let parent = row.get::<_, Option<i64>>(3)?.map(|parent| Ino(unsigned(parent)));
            scan.rows.entry(ino).or_insert(Row { kind, nlink: row.get(2)?, parent });
        }
        let mut statement = self.db.prepare_cached("SELECT DISTINCT parent FROM names")?;
        let parents = statement.query_map([], |row| row.get(0))?;
        for parent in parents {
            scan.parents.insert(Ino(unsigned(parent?)));
        }
        Ok(())
    }

    pub(crate) fn orphans(&self) -> Result<Vec<Ino>> {
        let mut statement = self.db.prepare("SELECT ino FROM orphans")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.map(|ino| Ok(Ino(unsigned(ino?)))).collect()
    }

    /// Nodes that have a fallback.
    pub(crate) fn with_fallback(&self) -> Result<Vec<Ino>> {
        let mut statement = self.db.prepare("SELECT ino FROM inodes WHERE fallback IS NOT NULL")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.map(|ino| Ok(Ino(unsigned(ino?)))).collect()
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

    /// Applies one mutation whole. When it returns, the death of every process of ours cannot lose it.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<()> {
        crash::point("commit.before");
        let done = self.write(commit);
        self.told_of_quota("commit", done)?;
        self.rows.note(commit);
        crash::point("commit.after");
        Ok(())
    }

    fn write(&mut self, commit: &Commit) -> Result<()> {
        let transaction = self.db.transaction()?;
        for effect in &commit.effects {
            apply(&transaction, effect)?;
        }
        Ok(transaction.commit()?)
    }

    /// `SQLite` knows a full disk and takes a quota that is used up for a failing one. Nothing was written, either
    /// way, and there may be room again.
    fn told_of_quota(&self, what: &'static str, done: Result<()>) -> Result<()> {
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

    /// Where the bytes of all nodes are, and those that these may fall back to.
    pub(crate) fn bodies(&self) -> Result<Vec<Body>> {
        let mut statement = self.db.prepare(&format!("SELECT {COLUMNS} FROM inodes"))?;
        let mut rows = statement.query([])?;
        let mut bodies = Vec::new();
        while let Some(row) = rows.next()? {
            let inode = read_inode(row)?;
            bodies.push(inode.body);
            bodies.extend(inode.fallback);
        }
        Ok(bodies)
    }

    /// What is wrong with the database file, and the rows that cannot be read.
    pub(crate) fn problems(&self) -> Result<Vec<String>> {
        let mut statement = self.db.prepare("PRAGMA integrity_check(20)")?;
        let lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        let mut problems: Vec<String> = lines.into_iter().filter(|line| line != "ok").collect();
        let mut statement = self.db.prepare(&format!("SELECT {COLUMNS} FROM inodes"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            problems.extend(read_inode(row).err().map(|error| error.to_string()));
        }
        let mut statement = self.db.prepare("SELECT parent, ino, kind FROM names")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let parent = Ino(unsigned(row.get(0)?));
            problems.extend(read_name(parent, row, 1).err().map(|error| error.to_string()));
        }
        Ok(problems)
    }

    /// Moves committed pages into the database, so that the log starts again at its beginning. The caller
    /// lets no commit run beside it.
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

    /// Whether the layer says anything of nodes that have a name, or of names.
    pub(crate) fn says_anything(&self) -> Result<bool> {
        let mut statement = self.db.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM inodes WHERE nlink > 0) OR EXISTS (SELECT 1 FROM names)",
        )?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    /// As [`close`](Self::close), for a layer in `directory` that nobody writes any more: fails unless everything is in
    /// one file, which `SQLite` itself would keep to itself.
    pub(crate) fn close_whole(self, directory: &Path) -> Result<()> {
        self.checkpoint()?;
        self.close()?;
        match directory.join("catalog.db-wal").try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => Err(ViewError::Latched("the catalog's log was not brought into its file".to_owned())),
            Err(source) => Err(ViewError::Host { what: "look into a layer", source }),
        }
    }

    /// Closes the database, which leaves everything in one file, readable as a frozen layer.
    pub(crate) fn close(self) -> Result<()> {
        let Self { db, claim, .. } = self;
        let closed = db.close().map_err(|(_, error)| error.into());
        drop(claim);
        closed
    }
}

fn configure(db: &Connection) -> Result<()> {
    db.pragma_update(None, "page_size", 1024)?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn apply(db: &Connection, effect: &Effect) -> Result<()> {
    match effect {
        Effect::PutInode(inode) => return put_inode(db, inode),
        Effect::DeleteInode(ino) => {
            db.prepare_cached("DELETE FROM inodes WHERE ino = ?1")?.execute([signed(ino.0)])?
        }
        Effect::PutName { parent, name, ino, kind } => put_name(db, *parent, name, *ino, kind.code())?,
        Effect::Whiteout { parent, name } => put_name(db, *parent, name, Ino(0), 0)?,
        Effect::DropName { parent, name } => db
            .prepare_cached("DELETE FROM names WHERE parent = ?1 AND name = ?2")?
            .execute(params![signed(parent.0), name])?,
        Effect::DropNames(parent) => {
            db.prepare_cached("DELETE FROM names WHERE parent = ?1")?.execute([signed(parent.0)])?
        }
        Effect::AddOrphan(ino) => {
            db.prepare_cached("INSERT OR IGNORE INTO orphans(ino) VALUES(?1)")?.execute([signed(ino.0)])?
        }
        Effect::DropOrphan(ino) => {
            db.prepare_cached("DELETE FROM orphans WHERE ino = ?1")?.execute([signed(ino.0)])?
        }
        Effect::Unsettle(Unsettled { parent, name, old, source, from }) => {
            db.prepare_cached("INSERT OR REPLACE INTO unsettled VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
                params![signed(parent.0), name, signed(old.0), signed(source.0), signed(from.0.0), from.1],
            )?
        }
        Effect::Settle { parent, name } => db
            .prepare_cached("DELETE FROM unsettled WHERE parent = ?1 AND name = ?2")?
            .execute(params![signed(parent.0), name])?,
    };
    Ok(())
}

fn put_name(db: &Connection, parent: Ino, name: &[u8], ino: Ino, kind: u8) -> Result<usize> {
    let mut statement = db.prepare_cached(
        "INSERT INTO names(parent, name, ino, kind) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT(parent, name) DO UPDATE SET ino = excluded.ino, kind = excluded.kind",
    )?;
    Ok(statement.execute(params![signed(parent.0), name, signed(ino.0), kind])?)
}

fn put_inode(db: &Connection, inode: &Inode) -> Result<()> {
    let xattrs = inode
        .xattrs
        .encode()
        .map_err(|error| ViewError::Damaged { ino: inode.ino, why: error.to_string() })?;
    let mut statement = db.prepare_cached(
        "INSERT OR REPLACE INTO inodes VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
         ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
    )?;
    statement.execute(params![
        signed(inode.ino.0),
        inode.kind.code(),
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        signed(inode.rdev),
        inode.atime.sec,
        inode.atime.nsec,
        inode.mtime.sec,
        inode.mtime.nsec,
        inode.ctime.sec,
        inode.ctime.nsec,
        inode.host_ctime.map(|time| time.sec),
        inode.host_ctime.map(|time| time.nsec),
        inode.parent.map(|parent| signed(parent.0)),
        body_codec::encode(&inode.body),
        inode.fallback.as_ref().map(body_codec::encode),
        xattrs,
        inode.applied.map(|applied| signed(applied.key.epoch)),
        inode.applied.map(|applied| signed(applied.key.unique)),
        inode.applied.map(|applied| signed(applied.result.0)),
    ])?;
    Ok(())
}

fn read_inode(row: &rusqlite::Row<'_>) -> Result<Inode> {
    let ino = Ino(unsigned(row.get(0)?));
    let damaged = |why: &str| ViewError::Damaged { ino, why: why.to_owned() };
    let time =
        |at: usize| -> Result<Timestamp> { Ok(Timestamp { sec: row.get(at)?, nsec: row.get(at + 1)? }) };
    let body = |bytes: &[u8]| body_codec::decode(bytes).ok_or_else(|| damaged("unreadable body"));
    let host_ctime = match row.get::<_, Option<i64>>(13)? {
        Some(_) => Some(time(13)?),
        None => None,
    };
    let fallback = match row.get_ref(17)?.as_blob_or_null().map_err(|_| damaged("unreadable fallback"))? {
        Some(bytes) => Some(body(bytes)?),
        None => None,
    };
    let applied = match (row.get(19)?, row.get(20)?, row.get(21)?) {
        (Some(epoch), Some(unique), Some(result)) => Some(Applied {
            key: RequestKey { epoch: unsigned(epoch), unique: unsigned(unique) },
            result: Ino(unsigned(result)),
        }),
        _ => None,
    };
    Ok(Inode {
        ino,
        kind: FileKind::from_code(row.get(1)?).ok_or_else(|| damaged("unknown kind"))?,
        mode: row.get(2)?,
        uid: row.get(3)?,
        gid: row.get(4)?,
        nlink: row.get(5)?,
        rdev: unsigned(row.get(6)?),
        atime: time(7)?,
        mtime: time(9)?,
        ctime: time(11)?,
        host_ctime,
        parent: row.get::<_, Option<i64>>(15)?.map(|parent| Ino(unsigned(parent))),
        body: body(row.get_ref(16)?.as_blob().map_err(|_| damaged("unreadable body"))?)?,
        fallback,
        xattrs: Xattrs::decode(row.get_ref(18)?.as_blob().map_err(|_| damaged("unreadable xattrs"))?)
            .map_err(|_| damaged("unreadable xattrs"))?,
        applied,
    })
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
fn signed(value: u64) -> i64 {
    value.cast_signed()
}

fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}
