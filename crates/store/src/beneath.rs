//! Opening what lies beneath a directory, however deep, without following anything out of it.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How much of a path goes to the kernel at once: less than `PATH_MAX`, of which a name takes at
/// most 255.
const PIECE: usize = 3800;

/// No symlink and no `..` leads out, no other mount is entered.
pub(crate) const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// For a directory that is read.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory `path` beneath `root`; an empty path is `root` itself. `EXDEV` tells that
/// another mount is in the way.
pub(crate) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let (piece, after) = split(rest);
        let piece = if piece.is_empty() { b"." } else { piece };
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        let opened = rustix::fs::openat2(from, piece, DIRECTORY, Mode::empty(), RESOLVE)?;
        if after.is_empty() {
            return Ok(opened);
        }
        at = Some(opened);
        rest = after;
    }
}

/// Cuts whole names from the front of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE {
        return (path, b"");
    }
    let cut = path[..PIECE].iter().rposition(|&byte| byte == b'/').unwrap_or(PIECE);
    (&path[..cut], path.get(cut + 1..).unwrap_or(b""))
}

/// The names in a directory, in the order in which the file system has them.
pub(crate) fn names(directory: &OwnedFd) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.into()),
        }
    }
    Ok(names)
}

/// `directory/name`, where an empty directory is the root.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + name.len() + 1);
    path.extend_from_slice(directory);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_cut_between_names() {
        let path = vec![b"abcdefg".to_vec(); 1000].join(&b'/');
        let (mut pieces, mut rest) = (Vec::new(), &path[..]);
        while !rest.is_empty() {
            let (piece, after) = split(rest);
            assert!(piece.len() <= PIECE && piece.len() % 8 == 7);
            pieces.push(piece);
            rest = after;
        }
        assert!(pieces.len() > 1);
        assert_eq!(pieces.join(&b'/'), path);
    }
}
