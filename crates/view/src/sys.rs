//! The one unsafe call of this crate.

use rusqlite::{Connection, ffi};

/// The error number with which the host last failed a call of this database (`sqlite3_system_errno`); 0 if none did.
pub(crate) fn system_errno(db: &Connection) -> i32 {
    // SAFETY: the connection is open for as long as it is borrowed, and the call only reads a number of it.
    unsafe { ffi::sqlite3_system_errno(db.handle()) }
}
