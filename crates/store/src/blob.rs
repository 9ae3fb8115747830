//! Reading and writing a file's bytes.

use crate::backend::{Backend, StagedBlob};
use crate::holes::{self, MAX_HOLES};
use crate::object::id_of;
use crate::{Extent, ObjectId, ObjectKind, Store, StoreError};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// Zeros to hash holes with.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A blob opened for reading.
#[derive(Debug, Clone)]
pub enum BlobReader {
    /// A small blob: its bytes, verified.
    Inline(Arc<[u8]>),
    /// A large blob: the plain file that holds it.
    File(Arc<File>),
    /// A small blob that is looked up when it is first read: most files that are opened are never read, because the
    /// kernel has their content.
    Later(Arc<Later>),
}

/// A blob that has yet to be looked up.
pub struct Later {
    store: Store,
    id: ObjectId,
    size: u64,
    found: OnceLock<BlobReader>,
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Later").field("id", &self.id).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Later {
    pub(crate) fn new(store: Store, id: ObjectId, size: u64) -> Self {
        Self { store, id, size, found: OnceLock::new() }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(found) = self.found.get() {
            return found.read_at(buffer, offset);
        }
        // Two at once look it up twice, and find the same.
        let found = self.store.open_blob(&self.id, self.size).map_err(io::Error::other)?;
        self.found.get_or_init(|| found).read_at(buffer, offset)
    }
}

impl BlobReader {
    /// Reads at `offset` as pread(2) does: 0 at the end, possibly less than asked for.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Inline(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
                let len = rest.len().min(buffer.len());
                buffer[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
            Self::File(file) => file.read_at(buffer, offset),
            Self::Later(later) => later.read_at(buffer, offset),
        }
    }
}

/// What a written blob came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenBlob {
    /// Its name.
    pub id: ObjectId,
    /// How many bytes it has.
    pub size: u64,
    /// Its hole list, when there were holes.
    pub holes: Option<ObjectId>,
    /// Whether the store did not have these bytes before.
    pub new: bool,
}

/// Takes a file's bytes front to back, hashes and keeps them in one pass. A large blob's bytes go
/// to a staged file as they come; holes are kept as holes.
pub struct BlobWriter<'a> {
    backend: &'a dyn Backend,
    hasher: blake3::Hasher,
    size: u64,
    holes: Vec<Extent>,
    /// All bytes so far, holes as zeros, while the blob is small.
    buffer: Vec<u8>,
    staged: Option<StagedBlob>,
}

impl<'a> BlobWriter<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self {
            backend,
            hasher: ObjectKind::Blob.hasher(),
            size: 0,
            holes: Vec::new(),
            buffer: Vec::new(),
            staged: None,
        }
    }

    /// The next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        if self.fits(bytes.len() as u64) {
            self.buffer.extend_from_slice(bytes);
        } else {
            let at = self.size;
            let staged = self.spill()?;
            staged.file.write_all_at(bytes, at).map_err(|source| failed(staged, source))?;
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// The next `len` bytes are a hole.
    pub fn hole(&mut self, len: u64) -> Result<(), StoreError> {
        if len == 0 {
            return Ok(());
        }
        let mut left = len;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hasher.update(&ZEROS[..piece]);
            left -= piece as u64;
        }
        if let (true, Ok(end)) = (self.fits(len), usize::try_from(self.size + len)) {
            self.buffer.resize(end, 0);
        } else {
            self.spill()?;
        }
        self.note_hole(len);
        self.size += len;
        Ok(())
    }

    /// Everything is written.
    pub fn finish(mut self) -> Result<WrittenBlob, StoreError> {
        let id = id_of(&self.hasher);
        let holes = self.put_holes()?;
        let new = match self.staged.take() {
            None => self.backend.put(ObjectKind::Blob, &id, &self.buffer)?,
            Some(staged) => {
                // A hole at the end was not written.
                staged.file.set_len(self.size).map_err(|source| failed(&staged, source))?;
                self.backend.put_blob_file(&id, staged)?
            }
        };
        Ok(WrittenBlob { id, size: self.size, holes, new })
    }

    fn fits(&self, more: u64) -> bool {
        self.staged.is_none() && self.size.saturating_add(more) < self.backend.large_blob()
    }

    fn note_hole(&mut self, len: u64) {
        let room = self.holes.len() < MAX_HOLES;
        match self.holes.last_mut() {
            Some(last) if last.end() == self.size => last.len += len,
            _ if room => self.holes.push(Extent { offset: self.size, len }),
            _ => {}
        }
    }

    fn put_holes(&self) -> Result<Option<ObjectId>, StoreError> {
        if self.holes.is_empty() {
            return Ok(None);
        }
        let bytes = holes::encode(&self.holes).map_err(StoreError::Encode)?;
        let id = ObjectKind::Holes.id(&bytes);
        self.backend.put(ObjectKind::Holes, &id, &bytes)?;
        Ok(Some(id))
    }

    /// The staged file, with what was buffered in it.
    fn spill(&mut self) -> Result<&StagedBlob, StoreError> {
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => self.stage()?,
        };
        Ok(self.staged.insert(staged))
    }

    fn stage(&mut self) -> Result<StagedBlob, StoreError> {
        let staged = self.backend.stage_blob()?;
        for data in holes::between_holes(&self.holes, self.buffer.len() as u64) {
            let range = usize::try_from(data.offset).ok().zip(usize::try_from(data.end()).ok());
            // Always there: the extents are those of the buffer.
            let bytes = range.and_then(|(from, to)| self.buffer.get(from..to)).unwrap_or_default();
            staged.file.write_all_at(bytes, data.offset).map_err(|source| failed(&staged, source))?;
        }
        self.buffer = Vec::new();
        Ok(staged)
    }
}

fn failed(staged: &StagedBlob, source: io::Error) -> StoreError {
    let path = staged.path.clone().unwrap_or_else(|| PathBuf::from("memory"));
    StoreError::Io { path, what: "cannot write a blob", source }
}
