//! What an export makes of a tree that changes, or is slow, while it is read.

use selvedge_store::export::{
    ExportOptions, ExportReport, FileReader, Node, Progress, Shape, Source, SourceError, export,
};
use selvedge_store::{Extent, Ino, Meta, Timestamp, Xattrs};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A root directory with these children. Nothing is in its subdirectories.
#[derive(Default)]
struct Live {
    children: Vec<(Vec<u8>, Node)>,
    gone: Vec<Ino>,
    pause: Duration,
    reads: Arc<AtomicU64>,
}

fn node(ino: u64, mode: u32, shape: Shape) -> Node {
    let time = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let meta =
        Meta { ino: Ino(ino), mode, uid, gid, nlink: 1, mtime: time, ctime: time, xattrs: Xattrs::new() };
    Node { meta, shape, stored: None }
}

fn file(ino: u64, size: u64) -> Node {
    node(ino, 0o644, Shape::Regular { size })
}

fn directory(ino: u64) -> Node {
    node(ino, 0o755, Shape::Directory)
}

impl Source for Live {
    fn root(&self) -> Result<Node, SourceError> {
        Ok(directory(1))
    }

    fn children(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, SourceError> {
        Ok(if directory.meta.ino == Ino(1) { self.children.clone() } else { Vec::new() })
    }

    fn is_there(&self, directory: &Node) -> Result<bool, SourceError> {
        Ok(!self.gone.contains(&directory.meta.ino))
    }

    fn open(&self, file: &Node) -> Result<Option<Box<dyn FileReader>>, SourceError> {
        let Shape::Regular { size } = file.shape else { return Err("not a regular file".into()) };
        if self.gone.contains(&file.meta.ino) {
            return Ok(None);
        }
        Ok(Some(Box::new(Slow { size, pause: self.pause, reads: Arc::clone(&self.reads) })))
    }
}

struct Slow {
    size: u64,
    pause: Duration,
    reads: Arc<AtomicU64>,
}

impl FileReader for Slow {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { offset: 0, len: self.size }])
    }

    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        std::thread::sleep(self.pause);
        self.reads.fetch_add(1, Ordering::Relaxed);
        buffer.fill(b'x');
        Ok(buffer.len())
    }
}

fn write(source: &Live, dest: &Path, tell: &mut dyn FnMut(Progress)) -> ExportReport {
    let dest = std::fs::File::open(dest).unwrap().into();
    export(source, dest, &ExportOptions { delete: true }, tell).unwrap()
}

fn names(dest: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dest)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_goes_while_a_tree_is_exported_is_left_out() {
    let dest = tempfile::tempdir().unwrap();
    // What an earlier export left: as long as the file was, longer, and of another kind.
    std::fs::write(dest.path().join("equal"), b"stale").unwrap();
    std::fs::write(dest.path().join("longer"), b"stale and longer").unwrap();
    std::fs::create_dir(dest.path().join("other")).unwrap();
    std::fs::create_dir_all(dest.path().join("directory-old/in it")).unwrap();
    let source = Live {
        children: vec![
            (b"directory".to_vec(), directory(2)),
            (b"directory-new".to_vec(), directory(8)),
            (b"directory-old".to_vec(), directory(9)),
            (b"equal".to_vec(), file(3, 5)),
            (b"longer".to_vec(), file(4, 5)),
            (b"new".to_vec(), file(5, 5)),
            (b"other".to_vec(), file(6, 5)),
            (b"stays".to_vec(), file(7, 5)),
        ],
        gone: [3, 4, 5, 6, 8, 9].map(Ino).into(),
        ..Live::default()
    };
    let report = write(&source, dest.path(), &mut |_| ());
    assert_eq!(names(dest.path()), ["directory", "stays"]);
    assert_eq!(std::fs::read(dest.path().join("stays")).unwrap(), b"xxxxx");
    assert_eq!((report.files, report.bytes), (2, 5));
}

#[test]
fn progress_is_told_while_one_large_file_is_written_or_compared() {
    let dest = tempfile::tempdir().unwrap();
    let source = Live {
        children: vec![(b"large".to_vec(), file(2, 2 << 20))],
        pause: Duration::from_millis(60),
        ..Live::default()
    };
    for what in ["written", "compared"] {
        source.reads.store(0, Ordering::Relaxed);
        let mut told_after = Vec::new();
        write(&source, dest.path(), &mut |_| told_after.push(source.reads.load(Ordering::Relaxed)));
        let all = source.reads.load(Ordering::Relaxed);
        assert!(all >= 8, "{what}: only {all} reads");
        let within = told_after.iter().filter(|&&reads| reads > 0 && reads < all).count();
        assert!(within >= 2, "{what}: told after {told_after:?} of {all} reads");
    }
}
