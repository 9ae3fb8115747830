//! What the two databases have in common.

use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// How long a statement waits for another process before it fails. Transactions here take
/// milliseconds, so this is the time to give up on a stopped process, not a usual wait.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How far the disk must have come when a transaction's commit returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Written: survives the death of the process.
    Normal,
    /// Synced: survives a power cut.
    Full,
}

/// Creates the database `path` with `schema`. The caller knows that nobody else does.
pub(crate) fn create(path: &Path, schema: &str) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    set_up(&connection, Sync::Full)?;
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
    connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0))?;
    Ok(connection)
}

fn set_up(connection: &Connection, sync: Sync) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    set_sync(connection, sync)?;
    // A temporary file on the repository's disk could deadlock with whoever serves that disk.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
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

/// Whether trying again later may help and nothing on the disk is in doubt: the disk is full, or
/// another process holds the database.
pub(crate) fn is_passing(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull};
    matches!(error.sqlite_error_code(), Some(DiskFull | DatabaseBusy | DatabaseLocked))
}
