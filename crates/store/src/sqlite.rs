//! What the two databases have in common.

use rusqlite::{Connection, FileControl, OpenFlags, TransactionBehavior};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a statement waits for another process before it fails. Transactions here take
/// milliseconds, so this is the time to give up on a stopped process, not a usual wait.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// What SQLite says of a database whose empty pages are taken out when that is asked for.
const INCREMENTAL: i64 = 2;

/// How much of an emptied log stays allocated, in bytes.
const KEPT_LOG: i64 = 1 << 20;

/// How far the disk must have come when a transaction's commit returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Written: survives the death of the process.
    Normal,
    /// Synced: survives a power cut.
    Full,
}

/// What becomes of pages that hold nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// They wait for what is written later.
    Kept,
    /// [`give_back`] can take them out of the file: each page knows whose it is, so that the last ones can be moved.
    Returnable,
}

/// Creates the database `path` with `schema`. The caller knows that nobody else does.
pub(crate) fn create(path: &Path, schema: &str, room: Room) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    set_up(&connection, Sync::Full)?;
    if room == Room::Returnable {
        // Only a database without tables takes it.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.execute_batch(schema)?;
    connection.close().map_err(|(_, error)| error)
}

/// Opens the database `path`, which must exist.
pub(crate) fn open(path: &Path, sync: Sync) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection, sync)?;
    // Opening reads nothing; this does, so that a file that is no database is found out now.
    let version: i64 = connection.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
    if version == 0 {
        // An empty file passes for a database without tables.
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
        return Err(rusqlite::Error::SqliteFailure(code, Some("it is empty".to_owned())));
    }
    Ok(connection)
}

fn set_up(connection: &Connection, sync: Sync) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    set_sync(connection, sync)?;
    // A temporary file on the repository's disk could deadlock with whoever serves that disk.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // The last user leaves the log and the shared memory beside the database: on a full disk the next one could
    // not make them, and so not even read.
    connection.file_control(None::<&str>, FileControl::PersistWal(&mut 1))?;
    connection.pragma_update(None, "journal_size_limit", KEPT_LOG)?;
    // SQLite ignores the failure of a checkpoint that it starts itself; ours are looked at.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

pub(crate) fn set_sync(connection: &Connection, sync: Sync) -> rusqlite::Result<()> {
    let value = match sync {
        Sync::Normal => "NORMAL",
        Sync::Full => "FULL",
    };
    connection.pragma_update(None, "synchronous", value)
}

/// Moves what the log holds into the database, as far as readers allow, so that the log begins
/// again from its start.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// How many pages hold nothing, how large a page is, in bytes, and whether [`give_back`] can take them out of the file.
pub(crate) fn room(connection: &Connection) -> rusqlite::Result<(u64, u64, Room)> {
    let ask = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let room = if ask("auto_vacuum")? == INCREMENTAL { Room::Returnable } else { Room::Kept };
    Ok((ask("freelist_count")?.unsigned_abs(), ask("page_size")?.unsigned_abs(), room))
}

/// Takes pages that hold nothing out of a database that was made for it, in one transaction that lasts `limit`, or as long as
/// one page takes; tells how many. The file becomes shorter when the log is brought into it.
pub(crate) fn give_back(connection: &mut Connection, limit: Duration) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let began = Instant::now();
    let mut pages = 0;
    {
        // A step of the statement is a page.
        let mut vacuum = transaction.prepare_cached("PRAGMA incremental_vacuum")?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {
            pages += 1;
            if began.elapsed() >= limit {
                break;
            }
        }
    }
    transaction.commit()?;
    Ok(pages)
}

/// The system's error number behind what SQLite says, where there is one.
pub(crate) fn errno(error: &rusqlite::Error) -> Option<i32> {
    use rusqlite::ErrorCode::{DiskFull, ReadOnly};
    match (error.sqlite_error_code(), error.sqlite_error().map(|error| error.extended_code)) {
        // The shared memory is a file too, and what it wants is room.
        (Some(DiskFull), _) | (_, Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)) => Some(libc::ENOSPC),
        (Some(ReadOnly), _) => Some(libc::EROFS),
        _ => None,
    }
}

/// What is wrong with the database file, at most so much as people read.
pub(crate) fn check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
    let lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Whether the file is missing or is not what it should be.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(CannotOpen | DatabaseCorrupt | NotADatabase))
}

/// Whether trying again later may help and nothing on the disk is in doubt: the disk is full, or
/// another process holds the database.
pub(crate) fn is_passing(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull};
    matches!(error.sqlite_error_code(), Some(DiskFull | DatabaseBusy | DatabaseLocked))
}
