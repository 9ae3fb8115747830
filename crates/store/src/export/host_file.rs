//! A plain file of the host as something to read.

use super::FileReader;
use super::content::extents;
use crate::Extent;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// An open file of the host, as long as it was when it was opened.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    size: u64,
}

impl HostFile {
    /// The open file `file`.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl FileReader for HostFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> io::Result<Vec<Extent>> {
        extents(&self.file, self.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}
