//! The wire format, pinned: each message's frame stands in a file, and a change of any byte fails here. A message
//! that has a new field keeps its old file, which must still be read, and gets a new one beside it.
//!
//! `SELVEDGE_UPDATE_GOLDEN=1` writes the files that are missing; it never changes one.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use selvedge_worker_proto::{
    Command, Device, Envelope, ErrorKind, Event, ExportDone, ExportNote, ExportNoted, ExportProgress,
    Failure, Holder, Message, MountReady, Passthrough, SnapshotDone, SnapshotProgress, StatusOk, StopRefused,
    TreeBody, TreeName, TreeNode, TreeReply, TreeRequest, WirePath, encode,
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn check<M: Message + PartialEq + Debug>(file: &str, fds: u32, message: M) {
    let mut envelope = Envelope::new(7, message);
    envelope.fds = fds;
    let frame = encode(&envelope.to_json().unwrap()).unwrap();
    let path = directory().join(format!("{file}.frame"));
    if std::env::var_os("SELVEDGE_UPDATE_GOLDEN").is_some() && !path.exists() {
        fs::write(&path, &frame).unwrap();
    }
    let golden = fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(&frame), String::from_utf8_lossy(&golden), "{file}");
    assert_eq!(Envelope::<M>::from_json(&golden[4..]).unwrap(), envelope, "{file}");
}

fn ready() -> MountReady {
    MountReady {
        protocol: 1,
        pid: 4711,
        mount_path: WirePath::from("/home/me/w/a1"),
        mount_id: 42,
        unique_mount_id: Some(2_147_483_690),
        device: Device { major: 0, minor: 39 },
        passthrough: Passthrough { active: false, reason: Some("needs CAP_SYS_ADMIN".to_owned()) },
        writeback: false,
    }
}

fn status() -> StatusOk {
    StatusOk {
        pid: 4711,
        mount_path: WirePath(PathBuf::from(OsString::from_vec(b"/w/\xff".to_vec()))),
        requests: 123_456,
        operations: BTreeMap::new(),
        oldest_request_ms: Some(12),
        stuck_ms: None,
        uptime_ms: 60_000,
        read_only: true,
        fruitless: None,
        passed_opens: 0,
    }
}

#[test]
fn every_command_and_event_is_written_and_read_as_ever() {
    check("command-hello", 0, Command::Hello { protocol: 1 });
    check("command-stop", 0, Command::Stop { force: true });
    check("command-status", 0, Command::Status {});
    check("command-export", 1, Command::Export { delete: true });
    check("command-browse", 1, Command::Browse {});
    check("event-browsing", 0, Event::Browsing {});
    check("command-hand-over", 0, Command::HandOver {});
    check("event-handed-over", 0, Event::HandedOver {});
    check("command-freeze", 0, Command::Freeze {});
    check("command-snapshot", 0, Command::Snapshot { message: WirePath::from("before the merge") });
    check("event-mount-ready", 3, Event::MountReady(ready()));
    check(
        "event-mount-error",
        0,
        Event::MountError(
            Failure::new(ErrorKind::Conflict, "/w is not empty").hint("choose an empty directory"),
        ),
    );
    check("event-status-ok", 0, Event::StatusOk(status()));
    let operations = BTreeMap::from([("lookup".to_owned(), 123_000), ("open".to_owned(), 456)]);
    check("event-status-ok-operations", 0, Event::StatusOk(StatusOk { operations, ..status() }));
    check("event-stopping", 0, Event::Stopping {});
    let holder = Holder { pid: 99, name: "bash".to_owned() };
    check("event-stop-refused", 0, Event::StopRefused(StopRefused::new("\"/w\" is busy", [holder])));
    check("event-frozen", 0, Event::Frozen {});
    check("event-snapshot-progress", 0, Event::SnapshotProgress(SnapshotProgress { files: 3, bytes: 4096 }));
    let done = SnapshotDone {
        snapshot: "0123abcd".repeat(8),
        changed: 12,
        made: true,
        mapped: 1,
        moving: Vec::new(),
    };
    check("event-snapshot-done", 0, Event::SnapshotDone(done));
    check("event-export-progress", 0, Event::ExportProgress(ExportProgress { files: 3, bytes: 4096 }));
    check(
        "event-export-noted",
        0,
        Event::ExportNoted(ExportNoted { path: WirePath::from(".selvedge"), note: ExportNote::LeftAlone }),
    );
    check("event-export-done", 0, Event::ExportDone(ExportDone { files: 5, bytes: 8192 }));
    check("event-failed", 0, Event::Failed(Failure::new(ErrorKind::TimedOut, "the disk did not answer")));
}

#[test]
fn every_question_about_a_tree_and_its_answers_are_written_and_read_as_ever() {
    check("tree-request-root", 0, TreeRequest::Root {});
    check("tree-request-children", 0, TreeRequest::Children { ino: 1 << 60 });
    check("tree-request-open", 0, TreeRequest::Open { ino: 7 });
    let id = |digit: &str| digit.repeat(64);
    let node = |body| TreeNode { ino: 7, mode: 0o644, uid: 1000, gid: 100, xattrs: id("0"), body };
    let directory = TreeBody::Directory { tree: Some(id("1")), digest: Some(id("2")) };
    check("tree-reply-node", 0, TreeReply::Node { node: node(directory) });
    let bodies = [
        TreeBody::Regular { size: 5, blob: Some(id("3")) },
        TreeBody::Regular { size: 5, blob: None },
        TreeBody::Directory { tree: None, digest: None },
        TreeBody::Symlink { target: WirePath::from("../x") },
        TreeBody::Fifo {},
        TreeBody::Socket {},
        TreeBody::CharDevice { rdev: 259 },
        TreeBody::BlockDevice { rdev: 2048 },
    ];
    let name = WirePath(PathBuf::from(OsString::from_vec(b"n\xff".to_vec())));
    let names = bodies.into_iter().map(|body| TreeName { name: name.clone(), node: node(body) }).collect();
    check("tree-reply-names", 0, TreeReply::Names { names, more: true });
    check("tree-reply-file", 1, TreeReply::File {});
    check("tree-reply-patched", 1, TreeReply::Patched { blob: id("4"), size: 1 << 30 });
    check("tree-reply-gone", 0, TreeReply::Gone {});
    check("tree-reply-failed", 0, TreeReply::Failed(Failure::new(ErrorKind::Failed, "the disk failed")));
}

#[test]
fn every_kind_has_a_golden_file() {
    let kebab = |kind: &str| {
        kind.chars().fold(String::new(), |mut name, letter| {
            if letter.is_uppercase() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
            name
        })
    };
    let commands = Command::KINDS.iter().map(|kind| format!("command{}.frame", kebab(kind)));
    let events = Event::KINDS.iter().map(|kind| format!("event{}.frame", kebab(kind)));
    let questions = TreeRequest::KINDS.iter().map(|kind| format!("tree-request{}.frame", kebab(kind)));
    let answers = TreeReply::KINDS.iter().map(|kind| format!("tree-reply{}.frame", kebab(kind)));
    let fields = ["event-status-ok-operations.frame".to_owned()];
    let wanted: BTreeSet<String> =
        commands.chain(events).chain(questions).chain(answers).chain(fields).collect();
    let found: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn fields_that_this_version_does_not_know_are_ignored() {
    let body = br#"{"id":7,"mood":"good","msg":{"Stop":{"force":true,"politely":[1,{"a":null}]}},"fds":0}"#;
    assert_eq!(Envelope::from_json(body).unwrap(), Envelope::new(7, Command::Stop { force: true }));
}

#[test]
fn fields_that_an_older_peer_leaves_out_have_their_old_meaning() {
    let read = |body: &str| Envelope::<Command>::from_json(body.as_bytes()).unwrap().msg;
    assert_eq!(read(r#"{"id":7,"msg":{"Stop":{}}}"#), Command::Stop { force: false });
    assert_eq!(read(r#"{"id":7,"msg":{"Export":{}}}"#), Command::Export { delete: false });
}
