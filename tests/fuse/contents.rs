//! Reading and writing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::process::Command;

use crate::{WORKER, errno, mounted, sys};
use selvedge_test_support::Repo;

const MIB: usize = 1 << 20;

/// Bytes that differ from place to place.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

#[test]
fn a_large_file_is_read_back_as_it_was_written() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("large");
    let content = pattern(9 * MIB + 12_345, 1);
    fs::write(&path, &content).unwrap();
    assert!(fs::read(&path).unwrap() == content);
    mount.stop();
}

#[test]
fn a_large_file_of_the_base_is_changed_in_one_place_only() {
    let content = pattern(5 * MIB + 7, 2);
    let repo = Repo::with_tree(|source| fs::write(source.join("large"), &content).unwrap());
    let mount = repo.mounting(WORKER).start();
    let path = mount.path().join("large");
    let mut expected = content.clone();
    expected[3 * MIB] ^= 0xff;
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&expected[3 * MIB..=3 * MIB], 3 * MIB as u64).unwrap();
    drop(file);
    assert!(fs::read(&path).unwrap() == expected);
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    assert!(fs::read(mount.path().join("large")).unwrap() == expected);
    mount.stop();
    assert!(fs::read(repo.source().join("large")).unwrap() == content);
}

#[test]
fn a_file_may_reach_beyond_4_gib() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("sparse");
    let file = File::create_new(&path).unwrap();
    let far = 5 << 30;
    file.write_all_at(b"far", far).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), far + 3);
    assert!(meta.blocks() < 4096, "a hole takes {} blocks", meta.blocks());
    let mut read = [1; 8];
    File::open(&path).unwrap().read_exact_at(&mut read, far - 5).unwrap();
    assert_eq!(&read, b"\0\0\0\0\0far");
    drop(file);
    mount.stop();
}

#[test]
fn appending_processes_lose_and_tear_no_line() {
    const LINES: usize = 200;
    let (_repo, mount) = mounted();
    let path = mount.path().join("log");
    let mut writers: Vec<_> = (0..4)
        .map(|writer| {
            let script = format!("exec >>\"$1\"; i=0; while [ $i -lt {LINES} ]; do echo \"{writer} $i of {LINES}\"; i=$((i+1)); done");
            Command::new("sh").args(["-c", &script, "sh"]).arg(&path).spawn().unwrap()
        })
        .collect();
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success());
    }
    let log = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = log.lines().map(str::to_owned).collect();
    let mut expected: Vec<_> =
        (0..4).flat_map(|writer| (0..LINES).map(move |line| format!("{writer} {line} of {LINES}"))).collect();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
    mount.stop();
}

#[test]
fn direct_io_of_1_mib_is_exact() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("direct");
    let content = pattern(4 * MIB, 3);
    let mut buffer = sys::aligned(MIB);
    let direct = |options: &mut OpenOptions| options.custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut file = direct(OpenOptions::new().write(true).create_new(true));
    for chunk in content.chunks(MIB) {
        buffer.copy_from_slice(chunk);
        file.write_all(&buffer).unwrap();
    }
    drop(file);
    let mut file = direct(OpenOptions::new().read(true));
    for chunk in content.chunks(MIB) {
        file.read_exact(&mut buffer).unwrap();
        assert!(buffer[..] == *chunk);
    }
    assert!(fs::read(&path).unwrap() == content);
    drop(file);
    mount.stop();
}

#[test]
fn what_is_stored_through_a_mapping_is_kept() {
    let content = pattern(3 * 4096 + 100, 4);
    let repo = Repo::with_tree(|source| fs::write(source.join("base"), &content).unwrap());
    let mount = repo.mounting(WORKER).start();
    let path = mount.path().join("base");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut mapping = sys::Mapping::shared(&file, content.len());
    assert!(mapping[..] == content[..]);
    mapping[4096..4100].copy_from_slice(b"mapd");
    mapping.sync();
    let mut expected = content.clone();
    expected[4096..4100].copy_from_slice(b"mapd");
    assert!(fs::read(&path).unwrap() == expected);
    // A store that no msync follows arrives when the mapping goes.
    mapping[0] ^= 0xff;
    expected[0] ^= 0xff;
    drop(mapping);
    drop(file);
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    assert!(fs::read(mount.path().join("base")).unwrap() == expected);
    mount.stop();
}

#[test]
fn a_write_is_seen_through_an_older_mapping_and_descriptor() {
    let repo = Repo::with_tree(|source| fs::write(source.join("base"), [b'a'; 4096]).unwrap());
    let mount = repo.mounting(WORKER).start();
    let path = mount.path().join("base");
    let reader = File::open(&path).unwrap();
    let mapping = sys::Mapping::read_only(&reader, 4096);
    assert_eq!(mapping[10], b'a');
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"b", 10).unwrap();
    assert_eq!(mapping[10], b'b');
    let mut byte = [0];
    reader.read_exact_at(&mut byte, 10).unwrap();
    assert_eq!(&byte, b"b");
    drop(mapping);
    drop(reader);
    mount.stop();
}

#[test]
fn truncation_shortens_and_lengthens() {
    let repo = Repo::with_tree(|source| fs::write(source.join("base"), b"0123456789").unwrap());
    let mount = repo.mounting(WORKER).start();
    let path = mount.path().join("base");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123");
    file.set_len(6).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123\0\0");
    drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    drop(file);
    mount.stop();
}

#[test]
fn fsync_of_files_and_directories_succeeds() {
    let (_repo, mount) = mounted();
    let mut file = File::create_new(mount.path().join("file")).unwrap();
    file.write_all(b"x").unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    File::open(mount.path()).unwrap().sync_all().unwrap();
    drop(file);
    mount.stop();
}

#[test]
fn what_is_not_offered_falls_back() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    fs::write(&path, b"0123456789").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // Copies go through the page cache (`fs::copy` asks for copy_file_range).
    fs::copy(&path, mount.path().join("copy")).unwrap();
    assert_eq!(fs::read(mount.path().join("copy")).unwrap(), fs::read(&path).unwrap());
    let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(mount.path());
    assert_eq!(errno(unnamed), libc::EOPNOTSUPP);
    assert_eq!(sys::attribute_flags(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    drop(file);
    mount.stop();
}

#[test]
fn what_is_stored_through_a_private_mapping_stays_private() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    fs::write(&path, [1; 8192]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut mapping = sys::Mapping::private(&file, 8192);
    mapping[0] = 2;
    file.write_all_at(&[3], 5000).unwrap();
    assert_eq!((mapping[0], mapping[5000]), (2, 3), "a page that was not stored to is the file's");
    drop((mapping, file));
    let content = fs::read(&path).unwrap();
    assert_eq!((content[0], content[5000]), (1, 3));
    mount.stop();
}
