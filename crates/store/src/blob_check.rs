//! Comparing a large blob with its name where all of it is read anyway.

use crate::object::id_of;
use crate::{BlobReader, Extent, ObjectId, ObjectKind, StoreError};
use std::io;
use std::ops::Range;

/// Zeros to hash holes with.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// How much is read at a time.
const BUFFER: usize = 256 * 1024;

/// A blob with more holes than this, in bytes, is not compared: its holes take longer to hash than its bytes to read.
const MOST_HOLES: u64 = 1 << 30;

/// The hash of a blob's bytes as they are read, front to back.
#[derive(Debug)]
pub struct BlobCheck {
    id: ObjectId,
    hasher: blake3::Hasher,
    at: u64,
    size: u64,
}

impl BlobCheck {
    /// Begins to read the blob `id` of `size` bytes, which has data at `data` alone. `None` if it is not compared: a small one
    /// was when it was looked up.
    #[must_use]
    pub fn begin(blob: &BlobReader, id: ObjectId, size: u64, data: &[Extent]) -> Option<Self> {
        let full: u64 = data.iter().map(|extent| extent.len).sum();
        let is_compared = matches!(blob, BlobReader::File(_)) && size.saturating_sub(full) <= MOST_HOLES;
        is_compared.then(|| Self { id, hasher: ObjectKind::Blob.hasher(), at: 0, size })
    }

    /// Reads the next bytes from `blob`, those of `range`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_from(&mut self, blob: &BlobReader, range: Range<u64>) -> Result<(), StoreError> {
        let id = self.id;
        let unreadable = |error: io::Error| {
            let reason = format!("it cannot be read: {error}");
            StoreError::Damaged { kind: ObjectKind::Blob, id, reason }
        };
        let mut buffer = vec![0; BUFFER.min(usize::try_from(range.end - range.start).unwrap_or(BUFFER))];
        let mut at = range.start;
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
            match blob.read_at(&mut buffer[..want], at) {
                Ok(0) => return Err(unreadable(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => {
                    self.read(&buffer[..read], at);
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(())
    }

    /// The next bytes, and where they are. Between these and those before is a hole.
    pub fn read(&mut self, bytes: &[u8], offset: u64) {
        self.hole_until(offset);
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
    }

    /// Everything was read.
    ///
    /// # Errors
    /// When these are not the bytes that the blob is named by.
    pub fn end(mut self) -> Result<(), StoreError> {
        self.hole_until(self.size);
        let actual = id_of(&self.hasher);
        if actual == self.id {
            return Ok(());
        }
        let reason = format!("its bytes have the hash {actual}");
        Err(StoreError::Damaged { kind: ObjectKind::Blob, id: self.id, reason })
    }

    fn hole_until(&mut self, end: u64) {
        while self.at < end {
            let piece = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hasher.update(&ZEROS[..piece]);
            self.at += piece as u64;
        }
    }
}

impl BlobReader {
    /// Reads all of the blob `id` of `size` bytes, which has data at `data` alone, and compares it with its name, if that was
    /// not done when it was looked up.
    ///
    /// # Errors
    /// When these are not its bytes, or cannot be read.
    pub fn verify(&self, id: ObjectId, size: u64, data: &[Extent]) -> Result<(), StoreError> {
        let Some(mut check) = BlobCheck::begin(self, id, size, data) else { return Ok(()) };
        for extent in data {
            check.read_from(self, extent.offset..extent.end())?;
        }
        check.end()
    }
}
