//! Files that the kernel reads and writes itself go on when the worker dies, at whatever point of their lives.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use selvedge_supervisor::State;
use selvedge_test_support::{Mounting, Repo, wait_until};

use crate::application::{Application, Talk};
use crate::scene::{SOON, mounting};
use crate::sys::Mapping;

const LENGTH: usize = 8192;

fn passing(repo: &Repo) -> Mounting {
    mounting(repo).option("--passthrough").option("on")
}

#[test]
fn files_that_are_passed_through_go_on_when_the_worker_is_killed() {
    let repo = Repo::empty();
    let mount = passing(&repo).start();
    Application::start("passed", mount.path(), 1).serve(&mount);
    assert_eq!((mount.restarts(), mount.state()), (4, State::Ready));
    mount.stop();
}

pub(crate) fn passed_files_go_on(talk: &Talk) {
    let path = talk.dir.join("file");
    fs::write(&path, [b'.'; LENGTH]).unwrap();
    let both = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let writer = both();
    let gone = File::create_new(talk.dir.join("gone")).unwrap();
    fs::remove_file(talk.dir.join("gone")).unwrap();
    let mut mapping = Mapping::shared(&both(), LENGTH);
    let mut earlier = Vec::new();
    for round in b'0'..b'4' {
        talk.replace_worker();
        writer.write_all_at(&[round; 10], 0).unwrap();
        mapping[5000] = round;
        gone.write_all_at(&[round], u64::from(round)).unwrap();
        // With a handle of before, of now, and of an earlier worker's end.
        earlier.push(File::open(&path).unwrap());
        for file in earlier.iter().chain([&writer]) {
            let mut bytes = [0; LENGTH];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!((bytes[9], bytes[10], bytes[5000]), (round, b'.', round));
        }
        assert_eq!((mapping[0], gone.metadata().unwrap().len()), (round, u64::from(round) + 1));
    }
    drop((writer, earlier));
    // Nothing but the mapping is left.
    mapping[1] = b'm';
    let last = both();
    let mut bytes = [0; 2];
    last.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [b'3', b'm']);
}

fn die_at(point: &str) {
    let repo = Repo::empty();
    let mount = passing(&repo).env("SELVEDGE_FUSE_WORKER_CRASH_AT", &format!("kill@{point}:3")).start();
    Application::start("passes", mount.path(), 1).serve(&mount);
    assert_eq!(mount.restarts(), 1, "{point}");
    wait_until("a successor", SOON, || mount.state() == State::Ready);
    assert!(mount.status(Duration::from_secs(5)).unwrap().passed_opens > 0, "{point}");
    mount.stop();
}

pub(crate) fn passes_files(talk: &Talk) {
    let mut mappings = Vec::new();
    for round in 0..12_u8 {
        let path = talk.dir.join(format!("f{round}"));
        let made = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        made.write_all_at(&[round; LENGTH], 0).unwrap();
        if round.is_multiple_of(3) {
            mappings.push((round, Mapping::shared(&made, LENGTH)));
        }
        let again = File::open(&path).unwrap();
        drop(made);
        assert_eq!(fs::read(&path).unwrap(), [round; LENGTH]);
        drop(again);
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(b"!", 0).unwrap();
        drop(writer);
        assert_eq!(fs::read(&path).unwrap()[..2], [b'!', round]);
        for (round, mapping) in &mappings {
            assert_eq!(mapping[..2], [b'!', *round]);
        }
    }
}

#[test]
fn nobody_notices_a_death_while_a_file_is_registered_to_be_passed_through() {
    die_at("backing.registered");
    die_at("backing.noted");
}

#[test]
fn nobody_notices_a_death_while_a_passed_file_is_given_up() {
    die_at("backing.closing");
    die_at("backing.closed");
    die_at("session.released");
}
