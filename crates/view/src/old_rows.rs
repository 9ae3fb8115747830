//! Rows of nodes in catalogs of formats 1 and 2, which have a column for each field. Frozen layers keep them; a catalog that
//! is written is converted when it is opened.

use crate::body_codec;
use crate::database::{signed, unsigned};
use crate::error::{Result, ViewError};
use crate::inode::{Applied, Inode};
use crate::record;
use crate::request::RequestKey;
use rusqlite::{Connection, params};
use selvedge_store::{FileKind, Ino, Timestamp, Xattrs};

/// The table that has them.
pub(crate) const TABLE: &str = "inodes";

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT ino, kind, mode, uid, gid, nlink, rdev, atime_s, atime_ns, mtime_s, mtime_ns, ctime_s, ctime_ns, \
             host_ctime_s, host_ctime_ns, parent, body, fallback, xattrs, epoch, request, result FROM inodes",
            $rest
        )
    };
}

/// All of them, as [`read_inode`] reads them.
pub(crate) const ALL: &str = select!("");

/// One of them.
pub(crate) const ONE: &str = select!(" WHERE ino = ?1");

/// Makes of a catalog one of the version `format`, or leaves it as it is.
///
/// # Errors
/// When the disk fails or is full, or a row cannot be read.
pub(crate) fn convert(db: &mut Connection, format: u32) -> Result<()> {
    let transaction = db.transaction()?;
    transaction.execute_batch(
        "CREATE TABLE nodes(ino INTEGER PRIMARY KEY, row BLOB NOT NULL) STRICT;
         DROP INDEX fallbacks;
         CREATE TABLE fallbacks(ino INTEGER PRIMARY KEY) STRICT;
         INSERT INTO fallbacks SELECT ino FROM inodes WHERE fallback IS NOT NULL;
         DELETE FROM names WHERE parent IN (SELECT ino FROM orphans);
         ALTER TABLE orphans ADD COLUMN ctime_s INTEGER;
         ALTER TABLE orphans ADD COLUMN ctime_ns INTEGER;",
    )?;
    {
        let mut all = transaction.prepare(ALL)?;
        let mut put = transaction.prepare("INSERT INTO nodes VALUES(?1, ?2)")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let inode = read_inode(row)?;
            let mut bytes = Vec::new();
            record::encode_row(&inode, &mut bytes)?;
            put.execute(params![signed(inode.ino.0), bytes])?;
        }
    }
    transaction.execute_batch("DROP TABLE inodes")?;
    transaction.execute("INSERT OR REPLACE INTO meta(key, value) VALUES('format', ?1)", [format])?;
    Ok(transaction.commit()?)
}

/// The node of a row.
pub(crate) fn read_inode(row: &rusqlite::Row<'_>) -> Result<Inode> {
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
