//! The bytes of regular files.

use super::FileReader;
use crate::{Extent, StoreError};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is read at a time.
const BUFFER: usize = 256 * 1024;

/// Why a file could not be written or compared.
pub(super) enum Failure {
    Source(io::Error),
    /// All of it was read, and it is not what the store has it for.
    Altered(StoreError),
    Destination(&'static str, io::Error),
}

/// Writes all that `reader` has into the empty `file`; holes stay holes. Calls `tick` after each
/// piece.
pub(super) fn copy(reader: &dyn FileReader, file: &File, tick: &mut dyn FnMut()) -> Result<(), Failure> {
    let written = |error| Failure::Destination("cannot write the file", error);
    let size = reader.size();
    let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER))];
    let mut check = reader.check();
    for extent in reader.data().map_err(Failure::Source)? {
        let mut at = extent.offset;
        while at < extent.end() {
            let piece = piece(&mut buffer, extent.end() - at);
            let read = reader.read_at(piece, at).map_err(Failure::Source)?;
            if read == 0 {
                // It became shorter while it was read.
                break;
            }
            file.write_all_at(&piece[..read], at).map_err(written)?;
            if let Some(check) = &mut check {
                check.read(&piece[..read], at);
            }
            at += read as u64;
            tick();
        }
    }
    file.set_len(size).map_err(written)?;
    check.map_or(Ok(()), |check| check.end().map_err(Failure::Altered))
}

/// Whether `file` has the bytes and the holes that `reader` has. Calls `tick` after each piece.
pub(super) fn is_same(reader: &dyn FileReader, file: &File, tick: &mut dyn FnMut()) -> Result<bool, Failure> {
    let read = |error| Failure::Destination("cannot read the file", error);
    let size = reader.size();
    let data = reader.data().map_err(Failure::Source)?;
    if file.metadata().map_err(read)?.len() != size || extents(file, size).map_err(read)? != data {
        return Ok(false);
    }
    let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
    let mut check = reader.check();
    for extent in data {
        let mut at = extent.offset;
        while at < extent.end() {
            let [ours, theirs] = &mut buffers;
            let ours = piece(ours, extent.end() - at);
            let len = reader.read_at(ours, at).map_err(Failure::Source)?;
            let theirs = &mut theirs[..len];
            // A file that became shorter is another.
            match file.read_exact_at(theirs, at) {
                Ok(()) if len > 0 && ours[..len] == *theirs => {
                    if let Some(check) = &mut check {
                        check.read(theirs, at);
                    }
                    at += len as u64;
                }
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(read(error)),
            }
            tick();
        }
    }
    check.map_or(Ok(()), |check| check.end().map_err(Failure::Altered))?;
    Ok(true)
}

fn piece(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    &mut buffer[..len]
}

/// Where `file`, of `size` bytes, has data.
pub(super) fn extents(file: &File, size: u64) -> io::Result<Vec<Extent>> {
    let mut data = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(rustix::io::Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
            Ok(end) => end.min(size),
            Err(rustix::io::Errno::NXIO | rustix::io::Errno::INVAL) => size,
            Err(error) => return Err(error.into()),
        };
        if begin >= end {
            break;
        }
        data.push(Extent { offset: begin, len: end - begin });
        at = end;
    }
    Ok(data)
}
