//! Removing what the tree does not have.

use crate::FileKind;
use crate::attributes;
use crate::beneath::{self, join};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// What could not be removed, and why: its path, what was tried, the system's answer.
pub(super) type Failure = (Vec<u8>, &'static str, Errno);

/// Removes the directory `path` beneath `root` with all that is in it, except what is on another
/// mount than `mount`; returns the paths of those, whose parents stay as well. Calls `tick` for each
/// name.
pub(super) fn directory(
    root: BorrowedFd<'_>,
    mount: u64,
    path: &[u8],
    tick: &mut dyn FnMut(),
) -> Result<Vec<Vec<u8>>, Failure> {
    let mut skipped = Vec::new();
    let mut directories = vec![path.to_vec()];
    let mut next = 0;
    // Top down the rest goes, bottom up the directories.
    while let Some(path) = directories.get(next).cloned() {
        next += 1;
        empty(root, mount, &path, &mut directories, &mut skipped, tick)?;
    }
    for path in directories.iter().rev() {
        tick();
        let (parent, name) = split_last(path);
        let parent = beneath::open_directory(root, parent)
            .map_err(|error| (path.clone(), "cannot open the parent directory", error))?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            // It holds, or is, what must stay.
            Err(Errno::NOTEMPTY) if !skipped.is_empty() => {}
            Err(error) => return Err((path.clone(), "cannot remove the directory", error)),
        }
    }
    Ok(skipped)
}

fn empty(
    root: BorrowedFd<'_>,
    mount: u64,
    path: &[u8],
    directories: &mut Vec<Vec<u8>>,
    skipped: &mut Vec<Vec<u8>>,
    tick: &mut dyn FnMut(),
) -> Result<(), Failure> {
    let fd = beneath::open_directory(root, path)
        .map_err(|error| (path.to_vec(), "cannot open the directory", error))?;
    if !rustix::process::geteuid().is_root() {
        // Its owner may not be allowed to change it, but to change that. If not, the first removal
        // says so.
        let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
    }
    let names = beneath::names(&fd).map_err(|error| (path.to_vec(), "cannot list the directory", error))?;
    for name in names {
        tick();
        let below = join(path, &name);
        let found = match attributes::of_name(fd.as_fd(), &name) {
            Ok(found) => found,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err((below, "cannot look at it", error)),
        };
        if found.mount != mount {
            skipped.push(below);
        } else if found.kind == FileKind::Directory {
            directories.push(below);
        } else {
            match rustix::fs::unlinkat(&fd, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err((below, "cannot remove it", error)),
            }
        }
    }
    Ok(())
}

/// The directory and the last name of a path.
pub(super) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_removal_ticks_with_each_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("gone/sub")).unwrap();
        for name in ["a", "b", "sub/c"] {
            std::fs::write(dir.path().join("gone").join(name), b"").unwrap();
        }
        let root = std::fs::File::open(dir.path()).unwrap();
        let mount = attributes::of_fd(&root).unwrap().mount;
        let mut ticks = 0;
        let skipped = directory(root.as_fd(), mount, b"gone", &mut || ticks += 1);
        assert_eq!(skipped.ok(), Some(Vec::new()));
        assert!(ticks >= 5, "{ticks} ticks for 5 names");
        assert!(!dir.path().join("gone").exists());
    }
}
