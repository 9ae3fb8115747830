//! A database in WAL mode, used by several connections at once: it locks byte ranges, and maps a file that all share.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, params};

use super::Load;

const ACCOUNTS: i64 = 50;
const EACH: i64 = 1000;

fn open(dir: &Path) -> Connection {
    let db = Connection::open(dir.join("accounts.db")).unwrap();
    // A successor is there much sooner; a time-out here would be a call that failed.
    db.busy_timeout(Duration::from_mins(1)).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.pragma_update(None, "synchronous", "full").unwrap();
    db.pragma_update(None, "wal_autocheckpoint", 100).unwrap();
    db
}

pub(crate) fn prepare(dir: &Path) {
    let mut db = open(dir);
    let change = db.transaction().unwrap();
    change.execute_batch("CREATE TABLE accounts(id INTEGER PRIMARY KEY, money INTEGER, note BLOB);").unwrap();
    change
        .execute_batch("CREATE TABLE transfers(worker INTEGER, number INTEGER, PRIMARY KEY(worker, number));")
        .unwrap();
    for account in 0..ACCOUNTS {
        change.execute("INSERT INTO accounts VALUES(?1, ?2, zeroblob(500))", params![account, EACH]).unwrap();
    }
    change.commit().unwrap();
}

pub(crate) fn run(load: &mut Load<'_>) {
    let mut db = open(load.dir);
    let worker = i64::try_from(load.number).unwrap();
    let mut number = 0_i64;
    while load.goes_on() {
        let mut below = |bound: i64| i64::try_from(load.random.below(bound.try_into().unwrap())).unwrap();
        let (from, to, amount) = (below(ACCOUNTS), below(ACCOUNTS), below(100));
        let note = load.random.bytes(500);
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let done: i64 = change
            .query_row("SELECT count(*) FROM transfers WHERE worker = ?1", [worker], |row| row.get(0))
            .unwrap();
        assert_eq!(done, number, "transfers of {}", load.number);
        change
            .execute(
                "UPDATE accounts SET money = money - ?1, note = ?2 WHERE id = ?3",
                params![amount, note, from],
            )
            .unwrap();
        change.execute("UPDATE accounts SET money = money + ?1 WHERE id = ?2", params![amount, to]).unwrap();
        change.execute("INSERT INTO transfers VALUES(?1, ?2)", params![worker, number]).unwrap();
        change.commit().unwrap();
        number += 1;
        let sum: i64 = db.query_row("SELECT sum(money) FROM accounts", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, EACH * ACCOUNTS);
    }
}

pub(crate) fn check(dir: &Path) {
    let db = open(dir);
    let answer: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
}
