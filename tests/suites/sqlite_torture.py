"""Several processes change one SQLite database for some seconds; money moves, none is made or lost.

usage: sqlite_torture.py DATABASE JOURNAL_MODE SECONDS
"""

import multiprocessing
import random
import sqlite3
import sys
import time

ACCOUNTS = 200
EACH = 1000
PROCESSES = 4


def connect(path):
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def transfer(path, seed, until, moved):
    random.seed(seed)
    connection = connect(path)
    count = 0
    while time.monotonic() < until:
        source, target = random.sample(range(ACCOUNTS), 2)
        amount = random.randrange(1, 20)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, source))
        connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))
        connection.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (source, target, amount, random.randbytes(random.randrange(3000))))
        if random.random() < 0.1:
            connection.execute("ROLLBACK")
            continue
        if random.random() < 0.05:
            connection.execute("DELETE FROM log WHERE rowid IN (SELECT rowid FROM log LIMIT 50)")
        connection.execute("COMMIT")
        count += 1
        total = connection.execute("SELECT sum(balance) FROM account").fetchone()[0]
        assert total == ACCOUNTS * EACH, total
    with moved.get_lock():
        moved.value += count


def main():
    path, journal, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    connection = connect(path)
    mode = connection.execute(f"PRAGMA journal_mode={journal}").fetchone()[0]
    assert mode == journal, f"{mode} instead of {journal}"
    connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)")
    connection.execute("CREATE TABLE log (source, target, amount, noise BLOB)")
    connection.executemany("INSERT INTO account VALUES (?, ?)", [(number, EACH) for number in range(ACCOUNTS)])
    connection.close()
    moved = multiprocessing.Value("q", 0)
    until = time.monotonic() + seconds
    workers = [multiprocessing.Process(target=transfer, args=(path, seed, until, moved)) for seed in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, worker.exitcode
    connection = connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert moved.value >= PROCESSES, "nothing was done"
    print(f"{moved.value} transactions of {PROCESSES} processes, integrity ok")


if __name__ == "__main__":
    main()
