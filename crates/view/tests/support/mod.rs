//! Repositories with a small base tree, and ways to leave a view: orderly, or as kill -9 would.
#![allow(dead_code, reason = "each test uses its part")]

pub mod large;

use selvedge_store::{
    Content, Entry, Ino, LockError, Meta, NewState, ObjectId, OpenOptions, Repository, Snapshot, ThreadLock,
    ThreadName, ThreadRef, Timestamp, TreeBuilder, Xattrs,
};
use selvedge_view::{Handle, Opened, Patching, Request, RequestKey, View, ViewOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const UID: u32 = 1000;
pub const GID: u32 = 1001;
const EPOCH: u64 = 7;

/// A repository with one thread, `main`.
pub struct Bench {
    root: TempDir,
    generation: u32,
    unique: AtomicU64,
    pub boot_id: String,
    /// How long layers stay after a snapshot has them.
    pub answered_after: Duration,
    /// How many frozen layers a thread may have before they are made one.
    pub deepest: usize,
    /// Which files are patched.
    pub patching: Option<Patching>,
    /// Whether files are opened past the view, so that patched ones become whole.
    pub passing: bool,
}

/// A node of a base tree.
pub enum Base {
    File { ino: u64, nlink: u32, bytes: Vec<u8> },
    Dir { ino: u64, entries: Vec<(&'static str, Base)> },
    Link { ino: u64, target: &'static str },
}

/// A disk of a given size; gone when dropped.
pub struct SmallDisk {
    mountpoint: TempDir,
}

impl SmallDisk {
    pub fn new(bytes: u64) -> Self {
        let mountpoint = TempDir::new().unwrap();
        let size = format!("size={bytes},mode=0700");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "small"])
            .arg(mountpoint.path())
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs needs root");
        Self { mountpoint }
    }

    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may still hold files on it.
        let _ = Command::new("umount").arg("-l").arg(self.mountpoint.path()).status();
    }
}

/// Times that base nodes have.
pub const BASE_TIME: Timestamp = Timestamp { sec: 1_000_000_000, nsec: 123_456_789 };

impl Bench {
    pub fn new(base: &Base) -> Self {
        Self::new_in(&std::env::temp_dir(), base)
    }

    /// In memory where that is possible, for who makes thousands of syncs and does not ask what is durable.
    pub fn new_in_memory(base: &Base) -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Self::new_in(&parent, base)
    }

    /// In a directory of its own beneath `parent`.
    pub fn new_in(parent: &Path, base: &Base) -> Self {
        let root = TempDir::new_in(parent).unwrap();
        let bench = Self {
            root,
            generation: 0,
            unique: AtomicU64::new(2),
            boot_id: "boot-1".to_owned(),
            answered_after: Duration::ZERO,
            deepest: 100,
            patching: None,
            passing: false,
        };
        std::fs::create_dir(bench.dir()).unwrap();
        let (repo, _) = Repository::init(&bench.dir()).unwrap();
        let snapshot = Snapshot {
            root: put(&repo, base),
            parents: Vec::new(),
            time: BASE_TIME,
            message: b"base".to_vec(),
        };
        let id = repo.store().put_snapshot(&snapshot).unwrap();
        repo.store().sync().unwrap();
        repo.refs().create_thread(&main(), &id, &[]).unwrap();
        bench
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(format!("g{}", self.generation))
    }

    pub fn path(&self) -> PathBuf {
        self.dir().join(".selvedge")
    }

    pub fn repo(&self) -> Repository {
        Repository::open(&self.dir(), &OpenOptions::default()).unwrap()
    }

    pub fn open(&self) -> View {
        self.open_with(false)
    }

    pub fn open_with(&self, read_only: bool) -> View {
        self.open_thread(&main(), read_only)
    }

    /// Opens the thread as a successor does, on the connection on which `open` was left open.
    pub fn resume(&self, open: &[(Handle, Opened)]) -> View {
        let repo = self.repo();
        let thread = repo.refs().thread(&main()).unwrap();
        let lock = lock(&repo, &thread);
        let boot_id = Some(self.boot_id.clone());
        let patching = self.patching;
        let options =
            ViewOptions { resumed: true, epoch: EPOCH, boot_id, patching, ..ViewOptions::default() };
        let view = View::open(repo, &main(), lock, options).unwrap();
        for (handle, opened) in open {
            view.inherit(*handle, *opened);
        }
        view
    }

    pub fn open_thread(&self, name: &ThreadName, read_only: bool) -> View {
        let repo = self.repo();
        let thread = repo.refs().thread(name).unwrap();
        let lock = lock(&repo, &thread);
        let options = ViewOptions {
            read_only,
            epoch: EPOCH,
            boot_id: Some(self.boot_id.clone()),
            answered_after: Some(self.answered_after),
            deepest: Some(self.deepest),
            patching: self.patching,
            ..ViewOptions::default()
        };
        let view = View::open(repo, name, lock, options).unwrap();
        if self.passing {
            view.begin_passing();
        }
        view
    }

    /// What a snapshot has.
    pub fn open_snapshot(&self, snapshot: &ObjectId) -> View {
        View::open_frozen(self.repo(), snapshot, &[], ViewOptions::default()).unwrap()
    }

    /// What `thread` was when its upper was frozen.
    pub fn open_frozen(&self, thread: &ThreadRef) -> View {
        let options = ViewOptions { boot_id: Some(self.boot_id.clone()), ..ViewOptions::default() };
        View::open_frozen(self.repo(), &thread.snapshot, &thread.layers, options).unwrap()
    }

    /// Another thread, which shares the frozen layers of `thread`.
    pub fn fork(&self, thread: &ThreadRef, name: &str) -> ThreadRef {
        let name = name.parse().unwrap();
        self.repo().refs().create_thread(&name, &thread.snapshot, &thread.layers).unwrap()
    }

    /// Leaves the view as kill -9 would leave it: what other processes see at this moment is what there is. The
    /// copy is made by another process, as closing any descriptor of the catalog here would drop its locks.
    pub fn kill(&mut self, view: View) {
        self.kill_all(vec![view]);
    }

    /// As [`kill`](Self::kill), for all views that are open.
    pub fn kill_all(&mut self, views: Vec<View>) {
        let from = self.dir();
        self.generation += 1;
        // A layer that nobody needs may be removed while it is copied; that is no instant at which everybody died.
        let copied = (0..10).any(|_| {
            let status = Command::new("cp").arg("-a").arg(&from).arg(self.dir()).status().unwrap();
            status.success() || {
                std::fs::remove_dir_all(self.dir()).unwrap();
                false
            }
        });
        assert!(copied);
        drop(views);
        std::fs::remove_dir_all(from).unwrap();
    }

    /// Freezes the upper of the thread `main`, which is closed.
    pub fn freeze(&self) {
        self.freeze_thread(&main());
    }

    /// Freezes the upper of a thread that is closed.
    pub fn freeze_thread(&self, name: &ThreadName) {
        let repo = self.repo();
        let thread = repo.refs().thread(name).unwrap();
        if let Some(upper) = thread.upper {
            let mut layers = thread.layers.clone();
            layers.push(upper);
            let new = NewState { snapshot: thread.snapshot, layers, upper: None };
            repo.refs().update_thread(&thread, &new).unwrap();
        }
    }

    /// The directory of the upper, if there is one.
    pub fn upper_dir(&self) -> Option<PathBuf> {
        let repo = self.repo();
        let thread = repo.refs().thread(&main()).unwrap();
        thread.upper.map(|id| repo.layer_dir(&id))
    }

    pub fn request(&self) -> Request {
        let unique = self.unique.fetch_add(2, Ordering::Relaxed);
        Request { key: RequestKey { epoch: EPOCH, unique }, resent: false, uid: UID, gid: GID, umask: 0 }
    }
}

/// The thread's lock. A child that another test is just starting has copies of this process's descriptors until it
/// executes, and so of locks that were let go of.
pub fn lock(repo: &Repository, thread: &ThreadRef) -> ThreadLock {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match ThreadLock::try_acquire(repo, &thread.id) {
            Err(LockError::Held { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.unwrap(),
        }
    }
}

pub fn main() -> ThreadName {
    "main".parse().unwrap()
}

fn meta(ino: u64, mode: u32, nlink: u32) -> Meta {
    Meta {
        ino: Ino(ino),
        mode,
        uid: UID,
        gid: GID,
        nlink,
        mtime: BASE_TIME,
        ctime: BASE_TIME,
        xattrs: Xattrs::new(),
    }
}

fn put(repo: &Repository, base: &Base) -> Entry {
    match base {
        Base::File { ino, nlink, bytes } => {
            let (blob, _): (ObjectId, _) = repo.store().put_blob(bytes).unwrap();
            let content = Content::Regular { blob, size: bytes.len() as u64, holes: None };
            Entry { meta: meta(*ino, 0o644, *nlink), content }
        }
        Base::Link { ino, target } => Entry {
            meta: meta(*ino, 0o777, 1),
            content: Content::Symlink { target: target.as_bytes().to_vec() },
        },
        Base::Dir { ino, entries } => {
            let mut tree = TreeBuilder::new();
            let mut nlink = 2;
            for (name, child) in entries {
                nlink += u32::from(matches!(child, Base::Dir { .. }));
                tree.push(name.as_bytes(), put(repo, child));
            }
            let tree = tree.finish().unwrap();
            repo.store().put_tree(&tree).unwrap();
            let content = Content::Directory { tree: tree.id, digest: tree.digest };
            Entry { meta: meta(*ino, 0o755, nlink), content }
        }
    }
}

/// Names in a directory, without `.` and `..`.
pub fn list(bench: &Bench, view: &View, ino: Ino) -> Vec<(Vec<u8>, Ino)> {
    let handle = view.opendir(&bench.request(), ino).unwrap();
    let mut names = Vec::new();
    let mut cookie = 0;
    loop {
        let mut some = false;
        // Three entries a reply, so that positions are used.
        let mut room = 3;
        view.readdir(handle, cookie, &mut |entry| {
            if room == 0 {
                return false;
            }
            room -= 1;
            some = true;
            cookie = entry.cookie;
            names.push((entry.name.to_vec(), entry.ino));
            true
        })
        .unwrap();
        if !some {
            break;
        }
    }
    view.releasedir(handle);
    assert_eq!(names[0].0, b".");
    assert_eq!(names[1].0, b"..");
    let mut names = names.split_off(2);
    names.sort();
    names
}

/// A file's bytes.
pub fn read(bench: &Bench, view: &View, ino: Ino) -> Vec<u8> {
    let flags = selvedge_view::OpenFlags { read: true, ..Default::default() };
    let handle = view.open_file(&bench.request(), ino, flags).unwrap();
    let bytes = view.read(handle, 0, 1 << 20).unwrap();
    view.release(handle);
    bytes
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
