//! A repository of its own for each test.

use std::fs;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use selvedge_mountpoint::mountinfo;
use selvedge_store::Repository;
use selvedge_store::import::{ImportOptions, import};
use tempfile::TempDir;

use crate::Mounting;

/// The thread that every repository here has.
pub const THREAD: &str = "main";

/// A repository in a temporary directory, with one thread of an imported tree.
#[derive(Debug)]
pub struct Repo {
    dir: Option<TempDir>,
}

impl Repo {
    /// A repository whose thread has the tree that `fill` makes in the directory it is given.
    pub fn with_tree(fill: impl FnOnce(&Path)) -> Self {
        Self::with_tree_in(&std::env::temp_dir(), fill)
    }

    /// As [`with_tree`](Self::with_tree), below the directory `parent`.
    pub fn with_tree_in(parent: &Path, fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("selvedge-test-").tempdir_in(parent).unwrap();
        let repo = Self { dir: Some(dir) };
        fs::create_dir(repo.source()).unwrap();
        fs::create_dir(repo.path()).unwrap();
        fs::create_dir(repo.mountpoint()).unwrap();
        fill(&repo.source());
        let (repository, _) = Repository::init(&repo.path()).unwrap();
        let options = ImportOptions {
            source: &repo.source(),
            exclude: &GlobSet::empty(),
            message: b"",
            previous: None,
        };
        let report = import(&repository, &options, &|_| ()).unwrap();
        repository.refs().create_thread(&THREAD.parse().unwrap(), &report.snapshot, &[]).unwrap();
        repo
    }

    /// A repository whose thread is empty.
    pub fn empty() -> Self {
        Self::with_tree(|_| ())
    }

    /// The directory that everything of this test is in.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the directory goes with the value").path()
    }

    /// The directory that was imported.
    pub fn source(&self) -> PathBuf {
        self.dir().join("source")
    }

    /// The directory that holds `.selvedge`.
    pub fn path(&self) -> PathBuf {
        self.dir().join("repo")
    }

    /// The working files that there are at this moment, in all layers.
    pub fn working_files(&self) -> Vec<fs::Metadata> {
        let layers = fs::read_dir(self.path().join(".selvedge/layers")).into_iter().flatten();
        let files = layers.filter_map(|layer| fs::read_dir(layer.ok()?.path().join("files")).ok()).flatten();
        files.filter_map(|file| file.ok()?.metadata().ok()).collect()
    }

    /// An empty directory to mount on.
    pub fn mountpoint(&self) -> PathBuf {
        self.dir().join("mnt")
    }

    /// A mount of the thread, to be started, by the program `worker`.
    pub fn mounting(&self, worker: &str) -> Mounting {
        Mounting::new(worker, &self.path(), &self.mountpoint())
    }
}

impl Drop for Repo {
    fn drop(&mut self) {
        let left = mountinfo::read().unwrap_or_default().into_iter();
        let left: Vec<_> =
            left.map(|entry| entry.mount_point).filter(|at| at.starts_with(self.dir())).collect();
        if !left.is_empty() {
            // Sweeping would walk into the mounts.
            let dir = self.dir.take().map(TempDir::keep);
            eprintln!("not removed: {dir:?}, because something is mounted in it: {left:?}");
            assert!(std::thread::panicking(), "a test left mounts behind: {left:?}");
        }
    }
}
