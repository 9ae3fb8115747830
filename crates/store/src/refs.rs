//! The threads' references and the inode numbers handed out: `refs.db`.

use crate::latch::Latch;
use crate::sqlite::{self, Room, Sync};
use crate::{FIRST_NEW_INO, LayerId, ObjectId, ThreadId, ThreadName};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use selvedge_mountpoint::shown;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A thread as `refs.db` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadRef {
    /// Its name, which a rename changes.
    pub name: ThreadName,
    /// Its identity, which nothing changes.
    pub id: ThreadId,
    /// The snapshot beneath its layers.
    pub snapshot: ObjectId,
    /// Its frozen layers, bottom first.
    pub layers: Vec<LayerId>,
    /// The layer it writes, once it has written anything.
    pub upper: Option<LayerId>,
    /// Counts the changes of this reference: what compare-and-set compares.
    pub revision: u64,
}

/// Threads by their names, each as it could be read.
pub type EachThread = Vec<(String, Result<ThreadRef, RefsError>)>;

/// What a thread's reference is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewState {
    /// The snapshot beneath its layers.
    pub snapshot: ObjectId,
    /// Its frozen layers, bottom first.
    pub layers: Vec<LayerId>,
    /// The layer it writes.
    pub upper: Option<LayerId>,
}

/// Why a reference could not be read or moved.
#[derive(Debug, thiserror::Error)]
pub enum RefsError {
    /// No such thread.
    #[error("no thread is named {name}")]
    NotFound {
        /// What was looked for.
        name: String,
    },
    /// The name is taken.
    #[error("a thread named {name} exists already")]
    Exists {
        /// The name.
        name: ThreadName,
    },
    /// The reference changed since it was read.
    #[error("thread {name} was changed by another command meanwhile")]
    Moved {
        /// The thread.
        name: ThreadName,
    },
    /// The name stands for another thread than before, or for none.
    #[error("thread {name} was renamed or replaced meanwhile")]
    Replaced {
        /// The name.
        name: ThreadName,
    },
    /// A row that makes no sense.
    #[error("{}: thread {name} is damaged: {reason}", shown(path))]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The thread.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No inode numbers are left.
    #[error("{}: no inode numbers are left", shown(path))]
    NumbersExhausted {
        /// The database file.
        path: PathBuf,
    },
    /// An earlier write failed; nothing more is written, because what the disk holds is unknown.
    #[error("{}: no more changes are accepted after an earlier failure: {cause}", shown(path))]
    Latched {
        /// The database file.
        path: PathBuf,
        /// The first failure.
        cause: String,
    },
    /// The database failed.
    #[error("{}: {what}", shown(path))]
    Database {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A random identity could not be made.
    #[error("no random numbers")]
    Random(#[source] std::io::Error),
}

impl RefsError {
    /// Whether the references are missing or are not what they should be.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Database { source, .. } => crate::sqlite::is_damage(source),
            _ => false,
        }
    }

    /// The system's error number behind this error, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Database { source, .. } => crate::sqlite::errno(source),
            Self::Random(source) => source.raw_os_error(),
            _ => None,
        }
    }
}

/// The threads' references. Every change is one small transaction that is durable when the call
/// returns.
#[derive(Debug)]
pub struct Refs {
    path: PathBuf,
    connection: Mutex<Connection>,
    latch: Latch,
}

/// How many changes are written to the log before it is moved into the database.
const CHECKPOINT_EVERY: u64 = 256;

const SCHEMA: &str = "
    CREATE TABLE threads (
        id BLOB PRIMARY KEY NOT NULL,
        name TEXT NOT NULL UNIQUE,
        snapshot BLOB NOT NULL,
        upper BLOB,
        revision INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE thread_layers (
        thread BLOB NOT NULL REFERENCES threads (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        layer BLOB NOT NULL,
        PRIMARY KEY (thread, position)
    ) WITHOUT ROWID;
    CREATE TABLE numbers (only INTEGER PRIMARY KEY CHECK (only = 1), next INTEGER NOT NULL);
    CREATE TABLE changes (only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL);
    INSERT INTO changes VALUES (1, 0);
";

/// A failure inside a transaction: SQLite's, or a refusal that rolls back.
enum Failure {
    Sqlite(rusqlite::Error),
    Refused(RefsError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<RefsError> for Failure {
    fn from(error: RefsError) -> Self {
        Self::Refused(error)
    }
}

impl Refs {
    /// Makes an empty database.
    pub fn create(path: &Path) -> Result<(), RefsError> {
        // The first number is a constant of the format, so it stands in the schema.
        let schema = format!("{SCHEMA} INSERT INTO numbers VALUES (1, {FIRST_NEW_INO});");
        sqlite::create(path, &schema, Room::Kept).map_err(|source| RefsError::Database {
            path: path.to_owned(),
            what: "cannot create the reference database",
            source,
        })
    }

    /// Opens what [`Self::create`] made.
    pub fn open(path: &Path) -> Result<Self, RefsError> {
        let connection = sqlite::open(path, Sync::Full)
            .and_then(|connection| {
                connection.pragma_update(None, "foreign_keys", true)?;
                Ok(connection)
            })
            .map_err(|source| RefsError::Database {
                path: path.to_owned(),
                what: "cannot open the reference database",
                source,
            })?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection), latch: Latch::default() })
    }

    /// The thread of that name.
    pub fn thread(&self, name: &ThreadName) -> Result<ThreadRef, RefsError> {
        self.read("cannot read a thread", |transaction| self.find(transaction, name))
    }

    /// The thread that was read `earlier`, as it is now: for whoever locked it since, since it may have
    /// changed before. Fails with [`RefsError::Replaced`] if its name is no longer its own.
    pub fn thread_again(&self, earlier: &ThreadRef) -> Result<ThreadRef, RefsError> {
        match self.thread(&earlier.name) {
            Ok(thread) if thread.id == earlier.id => Ok(thread),
            Ok(_) | Err(RefsError::NotFound { .. }) => {
                Err(RefsError::Replaced { name: earlier.name.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// All threads, in the order of their names.
    pub fn threads(&self) -> Result<Vec<ThreadRef>, RefsError> {
        self.read("cannot read the threads", |transaction| {
            let mut statement = transaction.prepare_cached("SELECT name FROM threads ORDER BY name")?;
            let names = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
            names.iter().map(|name| self.find(transaction, &self.parse_name(name)?)).collect()
        })
    }

    /// All threads, each by itself: a damaged one hides no other.
    pub fn each_thread(&self) -> Result<EachThread, RefsError> {
        let names = self.read("cannot read the threads", |transaction| {
            let mut statement = transaction.prepare_cached("SELECT name FROM threads ORDER BY name")?;
            let names = statement.query_map([], |row| row.get(0))?;
            Ok(names.collect::<Result<Vec<String>, _>>()?)
        })?;
        let thread = |name: &String| {
            let name = self.parse_name(name)?;
            self.thread(&name)
        };
        Ok(names
            .into_iter()
            .map(|name| {
                let found = thread(&name);
                (name, found)
            })
            .collect())
    }

    /// What is wrong with the database file.
    pub fn check(&self) -> Result<Vec<String>, RefsError> {
        self.read("cannot check the reference database", |transaction| Ok(sqlite::check(transaction)?))
    }

    /// Makes a thread without an upper.
    pub fn create_thread(
        &self,
        name: &ThreadName,
        snapshot: &ObjectId,
        layers: &[LayerId],
    ) -> Result<ThreadRef, RefsError> {
        let id = ThreadId::random().map_err(RefsError::Random)?;
        self.write("cannot create a thread", |transaction| {
            insert_thread(transaction, &id, name, snapshot, layers)
        })
    }

    /// Makes a thread without an upper that has the snapshot and the frozen layers which `from` has now.
    pub fn fork_thread(&self, name: &ThreadName, from: &ThreadRef) -> Result<ThreadRef, RefsError> {
        let id = ThreadId::random().map_err(RefsError::Random)?;
        self.write("cannot create a thread", |transaction| {
            let now = self.find(transaction, &from.name)?;
            if now.id != from.id {
                return Err(RefsError::Replaced { name: from.name.clone() }.into());
            }
            insert_thread(transaction, &id, name, &now.snapshot, &now.layers)
        })
    }

    /// Moves a thread from the state that was read to a new one, or fails with
    /// [`RefsError::Moved`] if it is no longer in the former.
    pub fn update_thread(&self, expected: &ThreadRef, new: &NewState) -> Result<ThreadRef, RefsError> {
        self.write("cannot move a thread", |transaction| {
            let revision = check_unmoved(transaction, expected)? + 1;
            transaction
                .prepare_cached("UPDATE threads SET snapshot = ?2, upper = ?3, revision = ?4 WHERE id = ?1")?
                .execute(params![
                    expected.id.as_bytes(),
                    new.snapshot.as_bytes(),
                    new.upper.as_ref().map(|upper| &upper.as_bytes()[..]),
                    revision,
                ])?;
            if new.layers != expected.layers {
                transaction
                    .prepare_cached("DELETE FROM thread_layers WHERE thread = ?1")?
                    .execute(params![expected.id.as_bytes()])?;
                write_layers(transaction, &expected.id, &new.layers)?;
            }
            Ok(ThreadRef {
                name: expected.name.clone(),
                id: expected.id,
                snapshot: new.snapshot,
                layers: new.layers.clone(),
                upper: new.upper,
                revision: revision.cast_unsigned(),
            })
        })
    }

    /// Gives a thread another name.
    pub fn rename_thread(&self, expected: &ThreadRef, name: &ThreadName) -> Result<ThreadRef, RefsError> {
        self.write("cannot rename a thread", |transaction| {
            let revision = check_unmoved(transaction, expected)? + 1;
            if name_taken(transaction, name)? {
                return Err(RefsError::Exists { name: name.clone() }.into());
            }
            transaction
                .prepare_cached("UPDATE threads SET name = ?2, revision = ?3 WHERE id = ?1")?
                .execute(params![expected.id.as_bytes(), name.as_str(), revision])?;
            Ok(ThreadRef { name: name.clone(), revision: revision.cast_unsigned(), ..expected.clone() })
        })
    }

    /// Removes a thread. Its layers and objects stay until nothing reaches them.
    pub fn delete_thread(&self, expected: &ThreadRef) -> Result<(), RefsError> {
        self.write("cannot delete a thread", |transaction| {
            check_unmoved(transaction, expected)?;
            transaction
                .prepare_cached("DELETE FROM threads WHERE id = ?1")?
                .execute(params![expected.id.as_bytes()])?;
            Ok(())
        })
    }

    /// `count` inode numbers that were never handed out before and never will be again.
    pub fn reserve_numbers(&self, count: u64) -> Result<Range<u64>, RefsError> {
        let exhausted = || RefsError::NumbersExhausted { path: self.path.clone() };
        let count = i64::try_from(count).map_err(|_| exhausted())?;
        self.write("cannot reserve inode numbers", |transaction| {
            let first: i64 =
                transaction.prepare_cached("SELECT next FROM numbers")?.query_row([], |row| row.get(0))?;
            let next = first.checked_add(count).ok_or_else(exhausted)?;
            transaction.prepare_cached("UPDATE numbers SET next = ?1")?.execute([next])?;
            Ok(first.cast_unsigned()..next.cast_unsigned())
        })
    }

    fn read<T>(
        &self,
        what: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, RefsError> {
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(|error| self.database_error(what, error))?;
        body(&transaction).map_err(|failure| self.refusal(what, failure))
    }

    fn write<T>(
        &self,
        what: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, RefsError> {
        if let Some(cause) = self.latch.cause() {
            return Err(RefsError::Latched { path: self.path.clone(), cause: cause.to_owned() });
        }
        let mut connection = self.connection();
        let written = (|| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let answer = body(&transaction)?;
            let count = count_change(&transaction)?;
            transaction.commit()?;
            Ok((answer, count))
        })();
        let written = written.map(|(answer, count)| {
            if count % CHECKPOINT_EVERY == 0 {
                self.checkpoint(&connection);
            }
            answer
        });
        written.map_err(|failure| {
            let doubtful = matches!(&failure, Failure::Sqlite(error) if !sqlite::is_passing(error));
            let error = self.refusal(what, failure);
            if doubtful {
                self.latch.set(&error);
            }
            error
        })
    }

    /// The change before this is durable in the log, whatever becomes of the checkpoint.
    fn checkpoint(&self, connection: &Connection) {
        if let Err(error) = sqlite::checkpoint(connection) {
            tracing::warn!(path = %self.path.display(), %error, "cannot move the log into the database");
            if !sqlite::is_passing(&error) {
                self.latch.set(&error);
            }
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic aborts the process, so there is no half-made state to see.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self, what: &'static str, failure: Failure) -> RefsError {
        match failure {
            Failure::Refused(error) => error,
            Failure::Sqlite(error) => self.database_error(what, error),
        }
    }

    fn database_error(&self, what: &'static str, source: rusqlite::Error) -> RefsError {
        RefsError::Database { path: self.path.clone(), what, source }
    }

    fn parse_name(&self, name: &str) -> Result<ThreadName, RefsError> {
        name.parse().map_err(|error: crate::NameError| self.damaged(name, error.to_string()))
    }

    fn damaged(&self, name: &str, reason: String) -> RefsError {
        RefsError::Damaged { path: self.path.clone(), name: name.to_owned(), reason }
    }

    fn find(&self, transaction: &Transaction<'_>, name: &ThreadName) -> Result<ThreadRef, Failure> {
        let row = transaction
            .prepare_cached("SELECT id, snapshot, upper, revision FROM threads WHERE name = ?1")?
            .query_row([name.as_str()], |row| {
                let upper: Option<[u8; 16]> = row.get(2)?;
                Ok((row.get(0)?, row.get(1)?, upper, row.get::<_, i64>(3)?))
            })
            .optional();
        let (id, snapshot, upper, revision) = match row {
            Ok(Some(row)) => row,
            Ok(None) => return Err(RefsError::NotFound { name: name.to_string() }.into()),
            // A value of another type or length than the schema's.
            Err(error) if error.sqlite_error().is_none() => {
                return Err(self.damaged(name.as_str(), error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        };
        let layers = transaction
            .prepare_cached("SELECT layer FROM thread_layers WHERE thread = ?1 ORDER BY position")?
            .query_map([&id], |row| row.get(0).map(LayerId::from_bytes))?
            .collect::<Result<_, _>>()?;
        Ok(ThreadRef {
            name: name.clone(),
            id: ThreadId::from_bytes(id),
            snapshot: ObjectId::from_bytes(snapshot),
            layers,
            upper: upper.map(LayerId::from_bytes),
            revision: revision.cast_unsigned(),
        })
    }
}

fn insert_thread(
    transaction: &Transaction<'_>,
    id: &ThreadId,
    name: &ThreadName,
    snapshot: &ObjectId,
    layers: &[LayerId],
) -> Result<ThreadRef, Failure> {
    if name_taken(transaction, name)? {
        return Err(RefsError::Exists { name: name.clone() }.into());
    }
    transaction.prepare_cached("INSERT INTO threads VALUES (?1, ?2, ?3, NULL, 1)")?.execute(params![
        id.as_bytes(),
        name.as_str(),
        snapshot.as_bytes()
    ])?;
    write_layers(transaction, id, layers)?;
    Ok(ThreadRef {
        name: name.clone(),
        id: *id,
        snapshot: *snapshot,
        layers: layers.to_vec(),
        upper: None,
        revision: 1,
    })
}

fn name_taken(transaction: &Transaction<'_>, name: &ThreadName) -> rusqlite::Result<bool> {
    transaction.prepare_cached("SELECT 1 FROM threads WHERE name = ?1")?.exists([name.as_str()])
}

/// The revision of a thread that is as it was read.
fn check_unmoved(transaction: &Transaction<'_>, expected: &ThreadRef) -> Result<i64, Failure> {
    let found = transaction
        .prepare_cached("SELECT name, revision FROM threads WHERE id = ?1")?
        .query_row(params![expected.id.as_bytes()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    match found {
        None => Err(RefsError::NotFound { name: expected.name.to_string() }.into()),
        Some((name, revision))
            if name == expected.name.as_str() && revision.cast_unsigned() == expected.revision =>
        {
            Ok(revision)
        }
        Some(_) => Err(RefsError::Moved { name: expected.name.clone() }.into()),
    }
}

fn write_layers(
    transaction: &Transaction<'_>,
    thread: &ThreadId,
    layers: &[LayerId],
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT INTO thread_layers VALUES (?1, ?2, ?3)")?;
    for (position, layer) in layers.iter().enumerate() {
        insert.execute(params![
            thread.as_bytes(),
            i64::try_from(position).unwrap_or(i64::MAX),
            layer.as_bytes()
        ])?;
    }
    Ok(())
}

/// Counts this change. An empty transaction would sync nothing, so this also makes each commit a
/// sync.
fn count_change(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached("UPDATE changes SET count = count + 1 RETURNING count")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_is_durable_succeeds_although_the_checkpoint_after_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs.db");
        Refs::create(&path).unwrap();
        let refs = Refs::open(&path).unwrap();
        let count = CHECKPOINT_EVERY - 1;
        refs.connection().execute("UPDATE changes SET count = ?1", [count.cast_signed()]).unwrap();
        // A statement that never ends keeps its connection from checkpointing.
        let begin_reading = |transaction: &Transaction<'_>| {
            let mut statement = transaction.prepare("SELECT next FROM numbers")?;
            let mut rows = statement.query([])?;
            rows.next()?;
            std::mem::forget(rows);
            std::mem::forget(statement);
            Ok(7)
        };
        assert_eq!(refs.write("test", begin_reading).unwrap(), 7);
        assert!(sqlite::checkpoint(&refs.connection()).is_err());
        assert_eq!(
            Refs::open(&path)
                .unwrap()
                .connection()
                .query_row("SELECT count FROM changes", [], |row| row.get(0)),
            Ok(count.cast_signed() + 1)
        );
        // It cannot be closed any more either.
        std::mem::forget(refs);
    }
}
