//! What can be done only once must be done once: names that must be new, attributes that must not be there yet.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, symlink};

use rustix::fs::{CWD, RenameFlags, XattrFlags, fsetxattr, renameat_with, setxattr};

use super::Load;
use crate::sys::posix_fallocate;

pub(crate) fn run(load: &mut Load<'_>) {
    let base = load.dir.join(format!("exclusive{}", load.number));
    fs::create_dir(&base).unwrap();
    let mut load = Load { dir: &base, random: load.random.clone(), ..*load };
    while load.goes_on() {
        once(&load);
        load.random.below(2);
    }
}

/// Every operation that fails when it is done twice, and those that must not.
pub(crate) fn once(load: &Load<'_>) {
    let at = |name: &str| load.dir.join(format!("once {name}"));
    fs::create_dir(at("directory")).unwrap();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(at("file")).unwrap();
    file.write_all_at(b"content", 4096).unwrap();
    posix_fallocate(&file, 20_000).unwrap();
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(4096)).unwrap(), 4096);
    fsetxattr(&file, "user.once", b"1", XattrFlags::CREATE).unwrap();
    fsetxattr(&file, "user.once", b"2", XattrFlags::REPLACE).unwrap();
    fs::hard_link(at("file"), at("link")).unwrap();
    symlink("somewhere", at("symlink")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    renameat_with(CWD, at("link"), CWD, at("moved"), RenameFlags::NOREPLACE).unwrap();
    renameat_with(CWD, at("moved"), CWD, at("directory"), RenameFlags::EXCHANGE).unwrap();
    assert!(fs::metadata(at("moved")).unwrap().is_dir());
    fs::rename(at("directory"), at("moved").join("in")).unwrap();
    let mut room = [0; 64];
    assert_eq!(rustix::fs::getxattr(at("moved").join("in"), "user.once", &mut room[..]).unwrap(), 1);
    assert!(rustix::fs::listxattr(at("file"), &mut room[..]).unwrap() > 0);
    rustix::fs::removexattr(at("file"), "user.once").unwrap();
    setxattr(at("file"), "user.once", b"3", XattrFlags::CREATE).unwrap();
    assert_eq!(fs::read_link(at("symlink")).unwrap().to_str(), Some("somewhere"));
    fs::remove_file(at("moved").join("in")).unwrap();
    fs::remove_dir(at("moved")).unwrap();
    for name in ["file", "symlink", "fifo"] {
        fs::remove_file(at(name)).unwrap();
    }
    assert_eq!(File::open(at("file")).unwrap_err().kind(), io::ErrorKind::NotFound);
    let mut content = [0; 7];
    file.read_exact_at(&mut content, 4096).unwrap();
    assert_eq!(&content, b"content", "the last name is gone, the file is not");
}
