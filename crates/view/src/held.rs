//! Objects that only files without a name need: `held/` in the upper's directory.
//!
//! The bytes of a file that lost its name while it was open may lie in the store, and the layer that named them there may go
//! while it stays open. Whoever has it open has its bytes, but `gc` sees nobody who needs them, and a successor of the
//! worker would not find them. So the upper's directory names them, in files that `gc` can list without opening a catalog
//! that somebody writes. A loss of power leaves no file without a name, so nothing here is ever synced.

use crate::error::{Result, ViewError};
use crate::inode::Body;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use selvedge_store::{ObjectId, ObjectKind};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Key = (ObjectKind, ObjectId);

/// What one upper holds.
#[derive(Debug)]
pub(crate) struct Held {
    directory: PathBuf,
    objects: Mutex<BTreeSet<Key>>,
}

impl Held {
    /// What the upper in `layer` holds already.
    pub(crate) fn open(layer: &Path) -> Result<Self> {
        let objects = Mutex::new(held_by(layer)?.into_iter().collect());
        Ok(Self { directory: layer.join("held"), objects })
    }

    /// Holds the objects that a file's bytes are, until [`clear`](Self::clear).
    pub(crate) fn add(&self, body: &Body) -> Result<()> {
        if let Body::Blob { id, holes, .. } = body {
            self.hold((ObjectKind::Blob, *id))?;
            holes.map_or(Ok(()), |holes| self.hold((ObjectKind::Holes, holes)))?;
        }
        Ok(())
    }

    /// Has the upper that follows hold the same.
    pub(crate) fn carry_to(&self, next: &Self) -> Result<()> {
        let objects = self.objects().clone();
        objects.into_iter().try_for_each(|object| next.hold(object))
    }

    /// Lets go of everything: no file without a name is left.
    pub(crate) fn clear(&self) {
        for object in std::mem::take(&mut *self.objects()) {
            // One that stays keeps an object for as long as the upper lives, and hurts nobody else.
            let _ = rustix::fs::unlink(self.path(object));
        }
    }

    fn hold(&self, object: Key) -> Result<()> {
        let mut objects = self.objects();
        if objects.contains(&object) {
            return Ok(());
        }
        match rustix::fs::mkdir(&self.directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(ViewError::host("hold an object")(error)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(self.path(object), flags, Mode::RUSR | Mode::WUSR)
            .map_err(ViewError::host("hold an object"))?;
        objects.insert(object);
        Ok(())
    }

    fn path(&self, (kind, id): Key) -> PathBuf {
        self.directory.join(format!("{}.{id}", kind.code()))
    }

    fn objects(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The objects that the upper in the directory `layer`, whoever writes it, holds for files without a name.
pub(crate) fn held_by(layer: &Path) -> Result<Vec<Key>> {
    let failed = |source| ViewError::Host { what: "look into a layer", source };
    let entries = match std::fs::read_dir(layer.join("held")) {
        Ok(entries) => entries,
        // Nothing is held; but a layer that is gone is another matter.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return std::fs::metadata(layer).map(|_| Vec::new()).map_err(failed);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut objects = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        objects.extend(name.to_str().and_then(object_named));
    }
    Ok(objects)
}

fn object_named(name: &str) -> Option<Key> {
    let (code, id) = name.split_once('.')?;
    let kind = ObjectKind::ALL.into_iter().find(|kind| kind.code().to_string() == code)?;
    Some((kind, id.parse().ok()?))
}
