//! Which parts of a patched file are its own, and which are still those of the blob it was made from.
//!
//! It is kept in an extended attribute of the working file, so that it goes wherever that goes: through a rename, a
//! second name, a removal. Like every write it is in the kernel's memory when it is made, so the death of the process
//! loses none of it; after a loss of power the catalog says which parts are known to be durable.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

/// The attribute of a working file that holds its coverage: `user.` is what file systems give to owners.
const ATTRIBUTE: &str = "user.selvedge.own";

/// The most blocks of a file. Their bits fit into the room that ext4 has for the attributes of one file: one block of
/// the disk, 4 KiB as a rule.
const MOST_BLOCKS: u64 = 8 * MOST_BYTES as u64;
const MOST_BYTES: usize = 2048;

/// The form of the attribute.
const VERSION: u8 = 1;

/// Version, block size, limit.
const HEADER: usize = 10;

/// Which blocks of a file of its own a patched file has. All others, up to the limit, are those of the blob; whatever
/// lies beyond the limit is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// The block size, as a power of two.
    shift: u8,
    /// How many of the blob's bytes still count.
    limit: u64,
    /// A bit a block, lowest first.
    bits: Vec<u8>,
}

impl Coverage {
    /// That of a file which is all of a blob of `size` bytes, in blocks of at least `block` bytes, a power of two.
    pub(crate) fn none(size: u64, block: u64) -> Self {
        let needed = size.div_ceil(MOST_BLOCKS).max(block).next_power_of_two();
        let shift = u8::try_from(needed.trailing_zeros()).unwrap_or(u8::MAX);
        let blocks = size.div_ceil(needed);
        Self { shift, limit: size, bits: vec![0; usize::try_from(blocks.div_ceil(8)).unwrap_or(0)] }
    }

    fn block(&self) -> u64 {
        1 << self.shift
    }

    /// How many of the blob's bytes still count.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The start of the block that `offset` lies in.
    pub(crate) fn floor(&self, offset: u64) -> u64 {
        offset & !(self.block() - 1)
    }

    /// The end of the last block that has a byte before `offset`.
    pub(crate) fn ceil(&self, offset: u64) -> u64 {
        self.floor(offset.saturating_add(self.block() - 1))
    }

    /// Whether the byte at `offset` is the file's own.
    pub(crate) fn has(&self, offset: u64) -> bool {
        offset >= self.limit || self.bit(offset >> self.shift)
    }

    fn bit(&self, block: u64) -> bool {
        let byte = usize::try_from(block / 8).ok().and_then(|at| self.bits.get(at));
        byte.is_none_or(|byte| byte & (1 << (block % 8)) != 0)
    }

    /// Whether all of `range` is the file's own.
    pub(crate) fn has_all(&self, range: &Range<u64>) -> bool {
        let end = range.end.min(self.limit);
        let mut at = range.start;
        while at < end {
            if !self.has(at) {
                return false;
            }
            at = self.floor(at) + self.block();
        }
        true
    }

    /// Whether nothing of the blob counts any more.
    pub(crate) fn is_whole(&self) -> bool {
        self.has_all(&(0..self.limit))
    }

    /// The same of a file that has everything of its own.
    pub(crate) fn whole(&self) -> Self {
        let mut whole = self.clone();
        whole.claim(&(0..self.limit));
        whole
    }

    /// Makes every block that has a byte of `range` the file's own.
    pub(crate) fn claim(&mut self, range: &Range<u64>) {
        let end = range.end.min(self.limit);
        let mut at = range.start;
        while at < end {
            let block = at >> self.shift;
            if let Some(byte) = usize::try_from(block / 8).ok().and_then(|at| self.bits.get_mut(at)) {
                *byte |= 1 << (block % 8);
            }
            at = self.floor(at) + self.block();
        }
    }

    /// Nothing of the blob at or behind `size` counts from now on.
    pub(crate) fn shorten(&mut self, size: u64) {
        self.limit = self.limit.min(size);
    }

    /// How far from `offset` on, at most to `end`, bytes come from where the first one does; and whether that is the
    /// file itself.
    pub(crate) fn run(&self, offset: u64, end: u64) -> (u64, bool) {
        let own = self.has(offset);
        let mut at = offset;
        while at < end && self.has(at) == own {
            at = match at {
                at if at >= self.limit => end,
                at => (self.floor(at) + self.block()).min(self.limit),
            };
        }
        (at.min(end), own)
    }

    /// The coverage of an open working file; `None` for one that is whole.
    pub(crate) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER + MOST_BYTES];
        let length = match fgetxattr(file, ATTRIBUTE, &mut bytes) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let decoded = bytes.get(..length).and_then(Self::decode);
        decoded.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Keeps it with the working file, in place of what was kept before.
    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        Ok(fsetxattr(file, ATTRIBUTE, &self.encode(), XattrFlags::empty())?)
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.bits.len());
        bytes.extend_from_slice(&[VERSION, self.shift]);
        bytes.extend_from_slice(&self.limit.to_le_bytes());
        bytes.extend_from_slice(&self.bits);
        bytes
    }

    /// What `bytes` stand for, if they stand for anything.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, shift], rest) = bytes.split_first_chunk()?;
        let (limit, bits) = rest.split_first_chunk()?;
        let limit = u64::from_le_bytes(*limit);
        let holds = (bits.len() as u64).checked_mul(8)?.checked_shl(shift.into())?;
        let sound = version == VERSION && shift < 63 && limit <= holds && bits.len() <= MOST_BYTES;
        sound.then(|| Self { shift, limit, bits: bits.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_grow_with_the_file_so_that_their_bits_fit() {
        let small = Coverage::none(100, 16);
        assert_eq!((small.block(), small.bits.len()), (16, 1));
        for size in [1 << 30, (1 << 40) + 1, u64::from(u32::MAX) << 20] {
            let coverage = Coverage::none(size, 64 * 1024);
            assert!(coverage.encode().len() <= HEADER + MOST_BYTES, "{size}");
            assert!(!coverage.has(size - 1) && coverage.has(size), "{size}");
        }
        assert_eq!(Coverage::none(1 << 30, 64 * 1024).block(), 64 * 1024);
    }

    #[test]
    fn what_is_no_coverage_is_refused() {
        let coverage = Coverage::none(1000, 16);
        let bytes = coverage.encode();
        assert_eq!(Coverage::decode(&bytes), Some(coverage));
        for cut in 0..bytes.len() {
            // One that is short of bits could not tell of all that counts.
            assert_eq!(Coverage::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        for (at, wrong) in [(0, 2), (1, 63), (1, 255), (9, 255)] {
            let mut bytes = bytes.clone();
            bytes[at] = wrong;
            assert_eq!(Coverage::decode(&bytes), None, "{wrong} at {at}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_coverage_is_a_set_of_blocks(
            size in 0_u64..600,
            claims in prop::collection::vec((0_u64..700, 0_u64..100), 0..12),
            shorter in prop::option::of(0_u64..600),
            range in (0_u64..700, 0_u64..200),
        ) {
            let mut coverage = Coverage::none(size, 16);
            let mut own: Vec<bool> = (0..1000).map(|at| at >= size).collect();
            for (start, len) in claims {
                coverage.claim(&(start..start + len));
                // What lies beyond the blob is the file's own without being claimed.
                if len > 0 && start < size {
                    let end = usize::try_from(coverage.ceil(start + len)).unwrap();
                    own[usize::try_from(coverage.floor(start)).unwrap()..end].fill(true);
                }
            }
            if let Some(shorter) = shorter {
                coverage.shorten(shorter);
                own[usize::try_from(shorter).unwrap()..].fill(true);
            }
            prop_assert_eq!(Coverage::decode(&coverage.encode()), Some(coverage.clone()));
            let is_own = |at: u64| own[usize::try_from(at).unwrap()];
            prop_assert!((0..1000).all(|at| coverage.has(at) == is_own(at)));
            let range = range.0..range.0 + range.1;
            prop_assert_eq!(coverage.has_all(&range), range.clone().all(is_own));
            prop_assert_eq!(coverage.is_whole(), (0..1000).all(is_own));
            let mut at = 0;
            while at < 1000 {
                let (end, kind) = coverage.run(at, 1000);
                prop_assert!(end > at && (at..end).all(|at| is_own(at) == kind));
                prop_assert!(end == 1000 || is_own(end) != kind);
                at = end;
            }
        }
    }
}
