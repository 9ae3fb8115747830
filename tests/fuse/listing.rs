//! Directory listings.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{RawDir, SeekFrom, seek};

use crate::{WORKER, mounted};
use selvedge_test_support::Repo;

/// The next few entries of an open directory: names and the cookies behind them.
fn some_entries(directory: &File) -> Vec<(CString, u64)> {
    // Room for some entries only, so that a listing takes several requests.
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = Vec::new();
    let mut raw = RawDir::new(directory, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        entries.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
        if raw.is_buffer_empty() {
            break;
        }
    }
    entries
}

fn rest_of(directory: &File) -> Vec<(CString, u64)> {
    let mut all = Vec::new();
    loop {
        let some = some_entries(directory);
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

fn names(entries: &[(CString, u64)]) -> BTreeSet<&CStr> {
    entries.iter().map(|(name, _)| name.as_c_str()).collect()
}

#[test]
fn a_listing_names_everything_once() {
    let base: Vec<_> = (0..700).map(|number| format!("base{number}")).collect();
    let repo = Repo::with_tree(|source| {
        for name in &base {
            fs::write(source.join(name), b"").unwrap();
        }
    });
    let mount = repo.mounting(WORKER).start();
    for number in 0..300 {
        fs::write(mount.path().join(format!("new{number}")), b"").unwrap();
        fs::remove_file(mount.path().join(format!("base{number}"))).unwrap();
    }
    let listed = rest_of(&File::open(mount.path()).unwrap());
    assert_eq!(listed.len(), 2 + 400 + 300);
    assert_eq!(names(&listed).len(), listed.len());
    assert!(names(&listed).contains(c"."));
    assert!(names(&listed).contains(c".."));
    assert!(!names(&listed).contains(c"base17"));
    mount.stop();
}

#[test]
fn a_listing_goes_on_from_any_cookie_while_entries_change() {
    let (_repo, mount) = mounted();
    let stable: Vec<_> = (0..400).map(|number| format!("stable{number}")).collect();
    for name in &stable {
        fs::write(mount.path().join(name), b"").unwrap();
    }
    let directory = File::open(mount.path()).unwrap();
    let first = some_entries(&directory);
    let cookie = first.last().unwrap().1;
    for number in 0..400 {
        fs::write(mount.path().join(format!("new{number}")), b"").unwrap();
    }
    let once = rest_of(&directory);
    seek(&directory, SeekFrom::Start(cookie)).unwrap();
    for number in 0..400 {
        fs::remove_file(mount.path().join(format!("new{number}"))).unwrap();
    }
    let again = rest_of(&directory);
    for listing in [&once, &again] {
        let rest = listing.iter().map(|(name, _)| name.as_c_str());
        let seen: Vec<_> = first.iter().map(|(name, _)| name.as_c_str()).chain(rest).collect();
        for name in &stable {
            let times = seen.iter().filter(|seen| seen.to_bytes() == name.as_bytes()).count();
            assert_eq!(times, 1, "{name}");
        }
    }
    // From the start again: the directory as it is now.
    seek(&directory, SeekFrom::Start(0)).unwrap();
    assert_eq!(rest_of(&directory).len(), 2 + stable.len());
    drop(directory);
    mount.stop();
}

#[test]
fn a_listing_shows_the_numbers_that_stat_shows() {
    use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
    let repo = Repo::with_tree(|source| {
        fs::create_dir(source.join("dir")).unwrap();
        fs::write(source.join("file"), b"").unwrap();
    });
    let mount = repo.mounting(WORKER).start();
    fs::write(mount.path().join("new"), b"").unwrap();
    for entry in fs::read_dir(mount.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
        assert_eq!(entry.file_type().unwrap(), entry.metadata().unwrap().file_type());
    }
    mount.stop();
}

#[test]
fn a_hundred_thousand_names_are_listed_once_each_while_others_come_and_go() {
    const STABLE: usize = 100_000;
    let (_repo, mount) = mounted();
    let name = |number: usize| format!("stable{number}");
    fs::write(mount.path().join(name(0)), b"").unwrap();
    for number in 1..STABLE {
        // A few files with many names are made faster than many files.
        let file = number / 50_000 * 50_000;
        if number == file {
            fs::write(mount.path().join(name(number)), b"").unwrap();
        } else {
            fs::hard_link(mount.path().join(name(file)), mount.path().join(name(number))).unwrap();
        }
    }
    let stop = AtomicBool::new(false);
    let (listed, changes, positions) = thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut changes = 0;
            while !stop.load(Ordering::Relaxed) {
                let path = mount.path().join(format!("passing{}", changes % 500));
                match fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(_) => fs::write(&path, b"").unwrap(),
                }
                changes += 1;
            }
            changes
        });
        let directory = File::open(mount.path()).unwrap();
        let listed = rest_of(&directory);
        // From positions all over the listing it goes on with the names that followed there.
        let stable: Vec<_> =
            listed.iter().filter(|(name, _)| name.to_bytes().starts_with(b"stable")).collect();
        let positions = (0..stable.len() - 1).step_by(9973).inspect(|&at| {
            seek(&directory, SeekFrom::Start(stable[at].1)).unwrap();
            let next = loop {
                let some = some_entries(&directory);
                if let Some((name, _)) =
                    some.into_iter().find(|(name, _)| name.to_bytes().starts_with(b"stable"))
                {
                    break name;
                }
            };
            assert_eq!(next, stable[at + 1].0);
        });
        let positions = positions.count();
        stop.store(true, Ordering::Relaxed);
        (listed.clone(), churn.join().unwrap(), positions)
    });
    assert!(changes > 0 && positions > 5, "{changes} changes, {positions} positions");
    let stable = listed.iter().filter(|(name, _)| name.to_bytes().starts_with(b"stable"));
    assert_eq!(stable.clone().count(), STABLE);
    assert_eq!(stable.map(|(name, _)| name).collect::<BTreeSet<_>>().len(), STABLE);
    mount.stop();
}
