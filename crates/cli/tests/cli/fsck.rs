//! `fsck`: what a user reads of damage.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::json;

use crate::sandbox::{Sandbox, fields};

/// A sandbox whose thread `t` has changed `file`, and what is in its layer.
fn changed() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    fs::write(sandbox.repo().join("large"), vec![7; 200_000]).unwrap();
    sandbox.run(["import"]).ok();
    sandbox.run(["thread", "create", "t"]).ok();
    let held = sandbox.mount("t", "mnt");
    fs::write(sandbox.path("mnt").join("file"), "changed\n").unwrap();
    let mounted = sandbox.run(["fsck"]).ok();
    assert!(mounted.stderr.contains("thread t is in use: the catalog"), "{mounted:?}");
    held.stop(Signal::TERM).ok();
    let layers: Vec<_> = fs::read_dir(sandbox.repo().join(".selvedge/layers")).unwrap().collect();
    let [Ok(layer)] = &layers[..] else { panic!("{layers:?}") };
    let layer = layer.path();
    (sandbox, layer)
}

#[test]
fn a_sound_repository_is_called_so() {
    let (sandbox, _) = changed();
    assert_eq!(sandbox.json(["fsck"]), json!([]));
    let said = sandbox.run(["fsck"]).ok();
    assert!(
        said.stdout.starts_with("checked ") && said.stdout.ends_with("2 threads: all is as it should be\n"),
        "{said:?}"
    );
    assert_eq!(said.stderr, "");
}

#[test]
fn damage_is_told_with_what_it_affects_and_exit_code_1() {
    let (sandbox, _) = changed();
    let blobs = sandbox.repo().join(".selvedge/blobs");
    let directory = fs::read_dir(blobs).unwrap().next().unwrap().unwrap().path();
    let blob = fs::read_dir(directory).unwrap().next().unwrap().unwrap().path();
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::options().write(true).open(&blob).unwrap().write_all_at(b"!", 100_000).unwrap();
    let said = sandbox.run(["fsck"]);
    assert_eq!(said.code(), 1, "{said:?}");
    let id = blob.file_name().unwrap().to_str().unwrap();
    assert!(said.stdout.starts_with(&format!("blob {id}: its 200000 bytes have the hash ")), "{said:?}");
    assert!(said.stdout.contains("\n  affects thread main at large\n"), "{said:?}");
    assert!(said.stdout.contains("\n  affects thread t at large\n"), "{said:?}");
    assert!(
        said.stderr.starts_with("error: one thing is damaged\nhint: keep a copy of .selvedge"),
        "{said:?}"
    );
    let document = crate::sandbox::finish(sandbox.command().args(["--json", "fsck"]));
    let document: serde_json::Value = serde_json::from_str(&document.stdout).unwrap();
    assert_eq!(fields(&document[0]), ["affects", "object", "problem"]);
    assert_eq!(document[0]["object"], json!(format!("blob {id}")));
}

#[test]
fn damage_in_a_layer_is_told() {
    let (sandbox, layer) = changed();
    let catalog = layer.join("catalog.db");
    let whole = fs::read(&catalog).unwrap();
    // Everything behind the first page, which says what the rest is.
    let mut bytes = whole.clone();
    bytes[1024..].fill(0x5a);
    fs::write(&catalog, &bytes).unwrap();
    let said = sandbox.run(["fsck"]);
    assert_eq!(said.code(), 1, "{said:?}");
    let id = layer.file_name().unwrap().to_str().unwrap();
    assert!(said.stdout.contains(&format!("layer {id}: ")), "{said:?}");
    assert!(said.stdout.contains("  affects thread t\n"), "{said:?}");
    assert!(!said.stdout.contains("thread main"), "{said:?}");
    fs::write(&catalog, &bytes[..100]).unwrap();
    let said = sandbox.run(["fsck"]);
    assert!(
        said.code() == 1 && said.stdout.contains(&format!("layer {id}: it cannot be opened")),
        "{said:?}"
    );
    fs::write(&catalog, &whole).unwrap();
    sandbox.run(["fsck"]).ok();
    fs::remove_dir_all(&layer).unwrap();
    let said = sandbox.run(["fsck"]);
    assert!(
        said.code() == 1 && said.stdout.contains(&format!("layer {id}: it cannot be opened: ")),
        "{said:?}"
    );
    assert!(said.stdout.contains("No such file or directory"), "{said:?}");
}
