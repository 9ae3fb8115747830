//! What several tests need.

pub(crate) mod host;

use globset::GlobSet;
use selvedge_store::export::{ExportError, ExportOptions, ExportReport, SnapshotSource, export};
use selvedge_store::import::{ImportError, ImportOptions, ImportReport, import};
use selvedge_store::{Content, Entry, Ino, Meta, ObjectId, ObjectKind, Repository, Store, Timestamp, Xattrs};
use std::path::{Path, PathBuf};

/// Bytes that do not repeat soon.
pub(crate) fn blob_of(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect()
}

/// A regular file with these bytes.
pub(crate) fn file_entry(ino: u64, bytes: &[u8]) -> Entry {
    let time = Timestamp { sec: 1_700_000_000, nsec: 123_456_789 };
    Entry {
        meta: Meta {
            ino: Ino(ino),
            mode: 0o644,
            uid: 1000,
            gid: 100,
            nlink: 1,
            mtime: time,
            ctime: time,
            xattrs: Xattrs::new(),
        },
        content: Content::Regular { blob: ObjectKind::Blob.id(bytes), size: bytes.len() as u64, holes: None },
    }
}

/// A repository beside a source directory, neither inside the other.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) source: PathBuf,
    pub(crate) repository: Repository,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, home) = (dir.path().join("source"), dir.path().join("home"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&home).unwrap();
        let repository = Repository::init(&home).unwrap().0;
        Self { dir, source, repository }
    }

    pub(crate) fn import_after(&self, previous: Option<ObjectId>) -> Result<ImportReport, ImportError> {
        self.import_with(previous, &GlobSet::empty())
    }

    pub(crate) fn import_with(
        &self,
        previous: Option<ObjectId>,
        exclude: &GlobSet,
    ) -> Result<ImportReport, ImportError> {
        let options = ImportOptions { source: &self.source, exclude, message: b"test", previous };
        import(&self.repository, &options, &|_| ())
    }

    pub(crate) fn import(&self) -> ImportReport {
        self.import_after(None).unwrap()
    }

    pub(crate) fn store(&self) -> &Store {
        self.repository.store()
    }

    /// The entry at `path` in a snapshot.
    pub(crate) fn entry(&self, snapshot: &ObjectId, path: &str) -> Option<Entry> {
        let mut entry = self.store().snapshot(snapshot).unwrap().root;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Content::Directory { tree, .. } = entry.content else { return None };
            entry = self.store().tree(&tree).unwrap().lookup(name.as_bytes())?;
        }
        Some(entry)
    }

    pub(crate) fn export(
        &self,
        snapshot: &ObjectId,
        dest: &Path,
        delete: bool,
    ) -> Result<ExportReport, ExportError> {
        let source = SnapshotSource::new(self.store().clone(), snapshot).unwrap();
        let dest = std::fs::File::open(dest).unwrap().into();
        export(&source, dest, &ExportOptions { delete }, &mut |_| ())
    }

    /// A new empty directory.
    pub(crate) fn dest(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}
