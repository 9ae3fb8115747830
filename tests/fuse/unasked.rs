//! Mounts on which the kernel opens files without asking (profile `small-files`).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use selvedge_supervisor::StopMode;
use selvedge_test_support::{Mounting, Repo, wait_until};

use crate::WORKER;
use crate::attributes::assert_set_id_bits_go_with_a_write;
use crate::requests::{FILES, counts, list, name, requests, small_files_mounted};
use crate::snapshots::{assert_snapshots_are_of_one_instant, content, snapshot};
use crate::sys::Mapping;
use crate::writeback::{
    assert_lengths_holes_and_mappings_are_as_on_the_host, both, mounted_again, with_file,
};

const OPTIONS: [&str; 2] = ["--profile", "small-files"];
const SOON: Duration = Duration::from_secs(30);
const PAGE: usize = 4096;

fn unasked(repo: &Repo) -> Mounting {
    OPTIONS.iter().fold(repo.mounting(WORKER), |mounting, option| mounting.option(option))
}

#[test]
fn what_the_kernel_has_the_content_of_is_opened_and_read_without_a_request() {
    let (_repo, mount) = small_files_mounted(|repo| unasked(repo).start());
    let why = mount.ready().passthrough.reason.clone();
    assert!(!mount.ready().passthrough.active && why.is_some(), "{why:?}");
    let dir = mount.path().join("d");
    let each = |work: &dyn Fn(&Path)| (0..FILES).for_each(|number| work(&dir.join(name(number))));
    let read_all = || each(&|path| assert!(fs::read(path).unwrap().starts_with(b"file")));
    let make = || {
        each(&|path| File::create_new(path.with_extension("new")).unwrap().write_all(b"new").unwrap());
    };
    let overwrite = || {
        OpenOptions::new().write(true).open(dir.join("f0.new")).unwrap().write_all(b"old").unwrap();
    };
    let expect = |what: &str, expected: &[(&str, u64)], work: &dyn Fn()| {
        let (asked, expected) = (requests(&mount, 0, work), counts(expected));
        let least = asked.iter().all(|(name, count)| expected.get(name).is_some_and(|most| count <= most));
        assert!(least, "{what}: {asked:?} instead of {expected:?}");
    };
    let (read, looked) = (("read", FILES), ("getattr", FILES));
    expect("a walk", &[("readdirplus", 2)], &|| list(&dir));
    expect("open, read, close", &[read], &read_all);
    expect("the same again: times of access, once", &[looked], &read_all);
    expect("the same a third time", &[], &read_all);
    let made = [("lookup", FILES), ("mknod", FILES), ("getxattr", FILES), ("write", FILES), looked];
    expect("create, write, close", &made, &make);
    expect("overwrite a changed file", &[("write", 1), ("getattr", 1)], &overwrite);
    assert_eq!(fs::read(dir.join("f0.new")).unwrap(), b"old");
    mount.stop();
}

#[test]
fn a_file_without_a_name_is_there_as_long_as_somebody_has_it_open() {
    let repo = with_file(b"base");
    let mount = unasked(&repo).start();
    let files = || repo.working_files().len();
    let (base, made) = (both(&mount.path().join("file")), both(&mount.path().join("made")));
    made.write_all_at(b"made", 0).unwrap();
    let mapping = Mapping::shared(&made, PAGE);
    for name in ["file", "made"] {
        fs::remove_file(mount.path().join(name)).unwrap();
    }
    // Longer than what is removed waits for others.
    std::thread::sleep(Duration::from_millis(1500));
    for (mut file, bytes) in [(&base, b"base"), (&made, b"made")] {
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b" and more").unwrap();
        file.sync_all().unwrap();
        let mut all = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut all).unwrap();
        assert_eq!(all.as_bytes(), [bytes.as_slice(), b" and more"].concat());
    }
    assert_eq!(files(), 2);
    drop((base, made));
    wait_until("the room of what was closed", SOON, || files() == 1);
    assert_eq!(&mapping[..4], b"made", "a mapping keeps its file");
    drop(mapping);
    wait_until("the room of what was mapped", SOON, || files() == 0);
    mount.stop();
}

#[test]
fn files_are_opened_made_cut_and_run_as_anywhere() {
    let repo = Repo::with_tree(|source| {
        fs::write(source.join("file"), b"content").unwrap();
        fs::copy("/bin/true", source.join("true")).unwrap();
    });
    let mount = unasked(&repo).start();
    let at = |name: &str| mount.path().join(name);
    assert_eq!(File::create_new(at("file")).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    let mut appending = OpenOptions::new().append(true).open(at("file")).unwrap();
    appending.write_all(b" and more").unwrap();
    assert_eq!(fs::read(at("file")).unwrap(), b"content and more");
    fs::write(at("file"), b"cut").unwrap();
    appending.write_all(b" again").unwrap();
    assert_eq!(fs::read(at("file")).unwrap(), b"cut again");
    let reading = File::open(at("file")).unwrap();
    assert!((&reading).write_all(b"x").is_err() && reading.set_len(0).is_err());
    appending.set_len(3).unwrap();
    assert_eq!(reading.metadata().unwrap().len(), 3);
    // Where its data is nobody tells, so all of it is.
    assert_eq!(rustix::fs::seek(&reading, rustix::fs::SeekFrom::Hole(0)).unwrap(), 3);
    assert!(Command::new(at("true")).status().unwrap().success());
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o400)).unwrap();
    drop((appending, reading));
    mount.stop();
    assert_eq!(mounted_again(&repo, "file"), b"cut");
    let mount = unasked(&repo).option("--read-only").start();
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"cut");
    assert!(OpenOptions::new().write(true).open(mount.path().join("file")).is_err());
    mount.stop();
}

#[test]
fn lengths_holes_and_mappings_are_as_on_the_host_where_files_are_opened_without_asking() {
    let old = vec![7; 40_000];
    let repo = with_file(&old);
    let mount = unasked(&repo).start();
    assert_lengths_holes_and_mappings_are_as_on_the_host(&repo, &mount, &old);
    let expected = fs::read(mount.path().join("file")).unwrap();
    mount.stop();
    assert!(mounted_again(&repo, "file") == expected);
}

#[test]
fn set_id_bits_go_when_somebody_else_writes_a_file_that_is_opened_without_asking() {
    assert_set_id_bits_go_with_a_write(&OPTIONS);
}

/// Stores `byte` everywhere, through mappings alone.
fn store(mappings: &mut BTreeMap<String, Mapping>, byte: u8) {
    for mapping in mappings.values_mut() {
        mapping.fill(byte);
    }
}

#[test]
fn a_snapshot_has_what_was_stored_through_mappings_of_which_nobody_was_told() {
    const LENGTH: usize = 16 * PAGE;
    let names: Vec<String> = (0..40).map(|number| format!("m{number}")).collect();
    let repo = Repo::with_tree(|source| {
        for name in &names {
            fs::write(source.join(name), vec![b'.'; LENGTH]).unwrap();
        }
    });
    let mount = unasked(&repo).start();
    let open = |name: &String| (name.clone(), Mapping::shared(&both(&mount.path().join(name)), LENGTH));
    let mut mappings: BTreeMap<String, Mapping> = names.iter().map(open).collect();
    let stop = AtomicBool::new(false);
    let snapshots = std::thread::scope(|scope| {
        // Others keep the dispatch threads busy, reading what the kernel has not read yet, and writing.
        let (stop, busy) = (&stop, mount.path().join("busy"));
        let busy = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                fs::write(&busy, vec![b'b'; 3 << 20]).unwrap();
                assert_eq!(fs::read(&busy).unwrap().len(), 3 << 20);
                fs::remove_file(&busy).unwrap();
            }
        });
        let taken = [b'1', b'2', b'3'].map(|byte| {
            store(&mut mappings, byte);
            (byte, snapshot(&mount))
        });
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        taken
    });
    store(&mut mappings, b'4');
    for (byte, snapshot) in snapshots {
        assert_eq!(snapshot.mapped, 0, "the kernel wrote everything");
        for name in &names {
            assert!(content(&repo, &snapshot, name) == vec![byte; LENGTH], "{name} of {}", char::from(byte));
        }
    }
    drop(mappings);
    mount.stop();
    assert!(mounted_again(&repo, &names[0]) == vec![b'4'; LENGTH]);
}

/// Who waits for what they have read finds them so.
#[test]
fn the_threads_that_read_requests_are_known_by_their_names() {
    let repo = with_file(b"base");
    let mount = unasked(&repo).option("--threads").option("3").start();
    wait_until("three threads that read requests", SOON, || {
        let threads = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
        let names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("fuser-")).count() == 3
    });
    mount.stop();
}

#[test]
fn a_snapshot_beside_four_writers_of_whom_nobody_was_told_is_one_instant_of_each() {
    let repo = Repo::with_tree(|source| {
        (0..4).for_each(|writer| fs::write(source.join(format!("w{writer}")), [0; 8]).unwrap());
    });
    let mount = unasked(&repo).start();
    let paths = [0, 1, 2, 3].map(|writer| mount.path().join(format!("w{writer}")));
    assert_snapshots_are_of_one_instant(&repo, &mount, &paths);
    mount.stop();
}

#[test]
fn an_unmount_by_force_saves_what_was_stored_through_mappings() {
    let repo = with_file(&[b'.'; PAGE]);
    let mount = unasked(&repo).start();
    let mut mapping = Mapping::shared(&both(&mount.path().join("file")), PAGE);
    mapping.fill(b's');
    mount.supervisor().stop(StopMode::Force).unwrap();
    drop((mapping, mount));
    assert!(mounted_again(&repo, "file") == [b's'; PAGE]);
}

#[test]
fn a_large_file_is_changed_block_by_block_where_files_are_opened_without_asking() {
    const LENGTH: usize = 64 << 20;
    let repo = with_file(&vec![7; LENGTH]);
    let mount = unasked(&repo).start();
    let file = both(&mount.path().join("file"));
    let places: Vec<u64> = (0..200).map(|at| at * 300_007).collect();
    for &place in &places {
        file.write_all_at(b"changed", place).unwrap();
    }
    let used: u64 = repo.working_files().iter().map(|file| file.blocks() * 512).sum();
    assert!((1..LENGTH as u64 / 2).contains(&used), "{used} bytes of the disk");
    file.sync_all().unwrap();
    drop(file);
    mount.stop();
    let bytes = mounted_again(&repo, "file");
    let mut expected = vec![7; LENGTH];
    for place in places {
        let place = usize::try_from(place).unwrap();
        expected[place..place + 7].copy_from_slice(b"changed");
    }
    assert!(bytes == expected);
}
