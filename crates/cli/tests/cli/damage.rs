//! Altered, truncated and missing parts of a repository: each is named, with what to do.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use rustix::process::Signal;

use crate::sandbox::{Held, Sandbox};

const BLOB: i64 = 1;
const TREE: i64 = 2;
const SNAPSHOT: i64 = 3;

/// A sandbox whose thread `main` has small and large files, and no mount.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.repo().join("large"), vec![b'l'; 200_000]).unwrap();
    sandbox.run(["import"]).ok();
    sandbox
}

fn inside(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.repo().join(".selvedge").join(name)
}

fn objects(sandbox: &Sandbox) -> Connection {
    Connection::open(inside(sandbox, "objects.db")).unwrap()
}

/// The object of that kind with the most bytes, by name.
fn largest(objects: &Connection, kind: i64) -> Vec<u8> {
    let sql = "SELECT id FROM objects WHERE kind = ?1 ORDER BY length(bytes) DESC LIMIT 1";
    objects.query_row(sql, [kind], |row| row.get(0)).unwrap()
}

fn hexadecimal(id: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap());
    id.iter().flat_map(digits).collect()
}

/// The snapshot that `main` is at.
fn snapshot(sandbox: &Sandbox) -> Vec<u8> {
    let shown = sandbox.json(["thread", "show", "main"])["snapshot"].as_str().unwrap().to_owned();
    (0..32).map(|at| u8::from_str_radix(&shown[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// The tree of `main`'s root, which every command that reads the thread needs first.
fn root_tree(objects: &Connection) -> Vec<u8> {
    largest(objects, TREE)
}

fn blob_file(sandbox: &Sandbox) -> PathBuf {
    let mut directories = fs::read_dir(inside(sandbox, "blobs")).unwrap();
    let directory = directories.next().unwrap().unwrap().path();
    fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn altered_truncated_and_missing_objects_are_named_with_what_to_do() {
    let damages: [(&str, &str); 3] = [
        (
            "altered",
            "UPDATE objects SET bytes = CAST(zeroblob(length(bytes)) AS BLOB) WHERE kind = ?1 AND id = ?2",
        ),
        (
            "truncated",
            "UPDATE objects SET bytes = substr(bytes, 1, length(bytes) - 1) WHERE kind = ?1 AND id = ?2",
        ),
        ("missing", "DELETE FROM objects WHERE kind = ?1 AND id = ?2"),
    ];
    for (how, sql) in damages {
        for (kind, what) in [(BLOB, "blob"), (TREE, "tree"), (SNAPSHOT, "snapshot")] {
            let sandbox = sandbox();
            let snapshot = snapshot(&sandbox);
            let objects = objects(&sandbox);
            let id = match kind {
                BLOB => largest(&objects, BLOB),
                TREE => root_tree(&objects),
                _ => snapshot,
            };
            assert_eq!(objects.execute(sql, params![kind, id]).unwrap(), 1);
            drop(objects);
            let name = format!("{what} {}", hexadecimal(&id));
            let refused = sandbox.run(["export", "main", "../out"]).fails(1);
            let refused =
                refused.saying(&name).saying(if how == "missing" { "is missing" } else { "is damaged" });
            refused.saying("hint: ").saying("selvedge fsck");
            assert_eq!(sandbox.run(["fsck"]).code(), 1);
            if kind == BLOB {
                // The mount comes up, and the one file cannot be read.
                let held = sandbox.mount("main", "m");
                let refused = ["file", "dir/inner"].iter().any(|name| {
                    let read = fs::read(sandbox.path("m").join(name));
                    read.is_err_and(|error| error.raw_os_error() == Some(libc::EIO))
                });
                assert!(refused, "{how}: every file can be read");
                held.stop(Signal::TERM).ok();
            } else if kind == TREE {
                // Directories are read when somebody asks for them.
                let held = sandbox.mount("main", "m");
                let error = fs::read_dir(sandbox.path("m")).and_then(|mut names| names.next().transpose());
                assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EIO));
                held.stop(Signal::TERM).ok();
            } else {
                let refused = sandbox.run(["mount", "main", "../m", "--foreground"]).fails(1);
                refused.saying(&name).saying("selvedge fsck");
            }
            assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
        }
    }
}

#[test]
fn truncated_and_missing_files_of_large_blobs_are_named_with_what_to_do() {
    for missing in [false, true] {
        let sandbox = sandbox();
        let blob = blob_file(&sandbox);
        let name = format!("blob {}", blob.file_name().unwrap().to_str().unwrap());
        if missing {
            fs::remove_file(&blob).unwrap();
        } else {
            fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).unwrap();
            fs::File::options().write(true).open(&blob).unwrap().set_len(100).unwrap();
        }
        let refused = sandbox.run(["export", "main", "../out"]).fails(1);
        refused.saying(&name).saying("hint: ").saying("selvedge fsck");
        let held: Held = sandbox.mount("main", "m");
        let error = fs::read(sandbox.path("m/large")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(fs::read(sandbox.path("m/file")).unwrap(), b"content\n");
        held.stop(Signal::TERM).ok();
        // What is still in the source heals it.
        fs::write(sandbox.repo().join("again"), vec![b'l'; 200_000]).unwrap();
        sandbox.run(["import"]).ok();
        sandbox.run(["fsck"]).ok();
    }
}

#[test]
fn databases_that_are_none_are_named_with_what_to_do() {
    for name in ["objects.db", "refs.db"] {
        for damage in ["missing", "empty", "garbage"] {
            let sandbox = sandbox();
            let path = inside(&sandbox, name);
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(inside(&sandbox, &format!("{name}{suffix}")));
            }
            match damage {
                "missing" => {}
                "empty" => fs::write(&path, "").unwrap(),
                _ => fs::write(&path, vec![b'x'; 8192]).unwrap(),
            }
            for words in [&["thread", "list"][..], &["export", "main", "../out"], &["import"]] {
                sandbox.run(words).fails(1).saying(name).saying("hint: ");
            }
            sandbox.run(["mount", "main", "../m", "--foreground"]).fails(1).saying(name).saying("hint: ");
            assert!(!sandbox.path("m").exists() && !sandbox.path("out").exists());
        }
    }
}

#[test]
fn a_layer_that_is_damaged_or_missing_is_named_with_what_to_do() {
    for missing in [false, true] {
        let sandbox = sandbox();
        let held = sandbox.mount("main", "m");
        fs::write(sandbox.path("m/file"), "changed\n").unwrap();
        held.stop(Signal::TERM).ok();
        let layers: Vec<_> = fs::read_dir(inside(&sandbox, "layers")).unwrap().collect();
        let [Ok(layer)] = &layers[..] else { panic!("{layers:?}") };
        if missing {
            fs::remove_dir_all(layer.path()).unwrap();
        } else {
            fs::write(layer.path().join("catalog.db"), vec![b'x'; 8192]).unwrap();
        }
        for words in [&["export", "main", "../out"][..], &["mount", "main", "../m", "--foreground"]] {
            let refused = sandbox.run(words).fails(1);
            refused.saying(layer.file_name().to_str().unwrap()).saying("selvedge fsck");
        }
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
        // The way out: the snapshot beneath is whole.
        let id = sandbox.json(["thread", "show", "main"])["snapshot"].as_str().unwrap().to_owned();
        sandbox.run(["thread", "create", "saved", "--from", &id]).ok();
        sandbox.run(["export", "saved", "../saved"]).ok();
        assert_eq!(fs::read(sandbox.path("saved/file")).unwrap(), b"content\n");
    }
}

/// Changes a byte of a file, which is as long as before.
fn alter(file: &Path) {
    fs::File::options().write(true).open(file).unwrap().write_all_at(b"!", 150_000).unwrap();
}

#[test]
fn an_altered_large_blob_is_named_by_whoever_reads_all_of_it() {
    let sandbox = sandbox();
    let blob = blob_file(&sandbox);
    let held = sandbox.mount("main", "m");
    let exported = |words: [&str; 4]| {
        let refused =
            sandbox.run(words).fails(1).saying(&format!("blob {}", blob.file_name().unwrap().display()));
        refused.saying("large").saying("is damaged").saying("hint: ").saying("selvedge fsck");
    };
    sandbox.run(["export", "main", "../out"]).ok();
    alter(&blob);
    // Through the worker, and over a file that has the right bytes, or the same wrong ones.
    exported(["export", "main", "../other", "--delete"]);
    assert!(!sandbox.path("other/large").exists(), "no altered file is left");
    exported(["export", "main", "../out", "--delete"]);
    assert_eq!(fs::read(sandbox.path("out/large")).unwrap(), vec![b'l'; 200_000], "the good one stays");
    alter(&sandbox.path("out/large"));
    exported(["export", "main", "../out", "--delete"]);
    let open = fs::File::options().write(true).open(sandbox.path("m/large")).unwrap();
    let error = open.write_all_at(b"?", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "altered bytes do not become the thread's own");
    assert_eq!(sandbox.json(["status", "main"]), serde_json::json!([]));
    // All bytes are going to be others.
    open.set_len(0).unwrap();
    open.write_all_at(b"new", 0).unwrap();
    drop(open);
    held.stop(Signal::TERM).ok();
    sandbox.run(["export", "main", "../out", "--delete"]).ok();
    let snapshot = sandbox.json(["thread", "show", "main"])["snapshot"].as_str().unwrap().to_owned();
    exported(["export", &snapshot, "../out", "--delete"]);
}

#[test]
fn what_is_missing_cut_or_altered_comes_back_by_importing_into_a_new_thread() {
    let sandbox = sandbox();
    let file = blob_file(&sandbox);
    let cut = || fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(7).unwrap();
    let altered = || alter(&file);
    let remove = || fs::remove_file(&file).unwrap();
    let remove_small = || {
        let small = objects(&sandbox).execute("DELETE FROM objects WHERE kind = ?1", [BLOB]).unwrap();
        assert!(small > 0);
    };
    let damages: [(&str, &dyn Fn()); 4] =
        [("cut", &cut), ("altered", &altered), ("gone", &remove), ("small", &remove_small)];
    for (thread, damage) in damages {
        damage();
        let said = sandbox.run(["fsck"]).saying("import DIR --thread NAME");
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        sandbox.run(["import", "--thread", thread]).ok();
        sandbox.run(["fsck"]).ok();
    }
}
