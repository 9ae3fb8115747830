//! A repository without any mount, for measurements of views.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use globset::GlobSet;
use selvedge_store::import::{ImportOptions, import};
use selvedge_store::{OpenOptions, Repository, ThreadLock, ThreadName};
use selvedge_view::{Request, RequestKey, View, ViewOptions};
use tempfile::TempDir;

/// A repository in a temporary directory, whose thread `main` has the imported tree.
pub struct Threads {
    dir: TempDir,
    repository: Arc<Repository>,
    requests: AtomicU64,
}

impl Threads {
    /// With the tree that `fill` makes in the directory it is given.
    pub fn new(fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let source = dir.path().join("source");
        fs::create_dir(&source)?;
        fill(&source)?;
        Repository::init(dir.path())?;
        let repository = Repository::open(dir.path(), &OpenOptions::default())?;
        let exclude = GlobSet::empty();
        let options = ImportOptions { source: &source, exclude: &exclude, message: b"", previous: None };
        let report = import(&repository, &options, &|_| ())?;
        repository.refs().create_thread(&"main".parse()?, &report.snapshot, &[])?;
        Ok(Self { dir, repository: Arc::new(repository), requests: AtomicU64::new(2) })
    }

    /// The directory that everything is in.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens a thread; `deepest` are the frozen layers that it may have without being tidied.
    pub fn open(&self, name: &str, deepest: Option<usize>) -> Result<View> {
        let name: ThreadName = name.parse()?;
        let thread = self.repository.refs().thread(&name)?;
        let lock = ThreadLock::try_acquire(&self.repository, &thread.id)?;
        let options = ViewOptions { deepest, ..ViewOptions::default() };
        Ok(View::open(Arc::clone(&self.repository), &name, lock, options)?)
    }

    /// A thread `fork` that has all that `view`, of the thread `name`, has.
    pub fn fork(&self, view: &View, name: &str, fork: &str) -> Result<()> {
        view.freeze()?;
        let thread = self.repository.refs().thread(&name.parse()?)?;
        self.repository.refs().fork_thread(&fork.parse()?, &thread)?;
        Ok(())
    }

    /// A request of root's that is not like any other.
    pub fn request(&self) -> Request {
        let unique = self.requests.fetch_add(2, Ordering::Relaxed);
        Request { key: RequestKey { epoch: 1, unique }, resent: false, uid: 0, gid: 0, umask: 0o022 }
    }
}
