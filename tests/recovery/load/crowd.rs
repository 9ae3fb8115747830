//! Many programs change the same directory and the same file's attributes at once.
//!
//! A successor knows of the last change of each directory and inode alone whether it was carried out. That suffices as
//! long as the kernel has no more than one of each under way, which is what these show: with two, one of them would
//! be done twice, and fail.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, RenameFlags, XattrFlags, mknodat, removexattr, renameat_with, setxattr};
use rustix::io::Errno;

use super::Load;

const NAME: &str = "crowd";

/// Who has the name that all of them want.
static HOLDERS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn prepare(dir: &Path) {
    fs::create_dir(dir.join(NAME)).unwrap();
    File::create(dir.join(NAME).join("shared")).unwrap();
}

pub(crate) fn run(load: &mut Load<'_>) {
    let directory = load.dir.join(NAME);
    let shared = directory.join("shared");
    let mine = |what: &str| directory.join(format!("{what}{}", load.number));
    let attribute = format!("user.of{}", load.number);
    let (first, second, third) = (mine("first"), mine("second"), mine("third"));
    while load.goes_on() {
        let way = [RenameFlags::NOREPLACE, RenameFlags::empty()][load.random.below(2)];
        OpenOptions::new().write(true).create_new(true).open(&first).unwrap();
        fs::create_dir(&second).unwrap();
        renameat_with(CWD, &first, CWD, &second, RenameFlags::EXCHANGE).unwrap();
        fs::hard_link(&second, &third).unwrap();
        fs::remove_dir(&first).unwrap();
        renameat_with(CWD, &third, CWD, &first, way).unwrap();
        fs::remove_file(&first).unwrap();
        symlink("x", &first).unwrap();
        mknodat(CWD, &third, FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::remove_file(&second).unwrap();
        fs::remove_file(&first).unwrap();
        fs::remove_file(&third).unwrap();
        for of in [&shared, &directory] {
            setxattr(of, &*attribute, b"1", XattrFlags::CREATE).unwrap();
            setxattr(of, &*attribute, b"2", XattrFlags::REPLACE).unwrap();
            removexattr(of, &*attribute).unwrap();
            assert_eq!(removexattr(of, &*attribute), Err(Errno::NODATA));
        }
        contend(&directory);
    }
}

/// Of all who make the same name, one at a time succeeds.
fn contend(directory: &Path) {
    let wanted = directory.join("wanted");
    match OpenOptions::new().write(true).create_new(true).open(&wanted) {
        Ok(_) => {
            assert_eq!(HOLDERS.fetch_add(1, Ordering::SeqCst), 0, "two made the same file");
            HOLDERS.fetch_sub(1, Ordering::SeqCst);
            fs::remove_file(&wanted).unwrap();
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
    }
}

/// Nothing is left of what they made: a name that was made twice would have no one to remove it.
pub(crate) fn check(dir: &Path) {
    let left = fs::read_dir(dir.join(NAME)).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.collect();
    assert_eq!(left, ["shared"]);
}
