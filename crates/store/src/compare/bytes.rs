//! Whether two files have the same bytes, and which.

use crate::export::FileReader;
use crate::object::id_of;
use crate::{Extent, ObjectId, ObjectKind};
use std::io;

/// How much is read at a time.
const BUFFER: usize = 256 * 1024;

/// Whether both have the same bytes. What is a hole in both is not read.
pub(super) fn same(one: &dyn FileReader, other: &dyn FileReader) -> io::Result<bool> {
    if one.size() != other.size() {
        return Ok(false);
    }
    let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
    for extent in union(one.data()?, other.data()?) {
        let mut at = extent.offset;
        while at < extent.end() {
            let piece = usize::try_from(extent.end() - at).unwrap_or(BUFFER).min(BUFFER);
            let [ours, theirs] = &mut buffers;
            let len = fill(one, &mut ours[..piece], at)?;
            // A file that became shorter is another.
            if len != fill(other, &mut theirs[..piece], at)? || len < piece || ours[..len] != theirs[..len] {
                return Ok(false);
            }
            at += len as u64;
        }
    }
    Ok(true)
}

/// The id of the blob that would have these bytes.
pub(super) fn blob_id(file: &dyn FileReader) -> io::Result<ObjectId> {
    let mut hasher = ObjectKind::Blob.hasher();
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        match fill(file, &mut buffer, at)? {
            0 => return Ok(id_of(&hasher)),
            len => {
                hasher.update(&buffer[..len]);
                at += len as u64;
            }
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &dyn FileReader, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// What one or both have data in, in order, not overlapping.
fn union(one: Vec<Extent>, other: Vec<Extent>) -> Vec<Extent> {
    let mut all = one;
    all.extend(other);
    all.sort_unstable_by_key(|extent| extent.offset);
    let mut merged: Vec<Extent> = Vec::with_capacity(all.len());
    for extent in all {
        match merged.last_mut() {
            Some(last) if extent.offset <= last.end() => last.len = last.len.max(extent.end() - last.offset),
            _ => merged.push(extent),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_that_meet_are_one() {
        let extent = |offset, len| Extent { offset, len };
        let joined =
            union(vec![extent(0, 4), extent(10, 5)], vec![extent(4, 2), extent(12, 1), extent(20, 1)]);
        assert_eq!(joined, [extent(0, 6), extent(10, 5), extent(20, 1)]);
    }
}
