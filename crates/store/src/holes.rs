//! Where a sparse file's holes are.

use crate::DecodeError;
use crate::codec::{Reader, Writer};

const VERSION: u8 = 1;

/// The most holes a list keeps. What lies beyond is kept as data: the same bytes, more space.
pub(crate) const MAX_HOLES: usize = 1 << 22;

/// A range of bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

impl Extent {
    /// Where it ends: the first byte past it.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// Encodes holes that are in order and do not touch: each as the distance from the end of the one
/// before, then its length.
pub(crate) fn encode(holes: &[Extent]) -> Result<Vec<u8>, DecodeError> {
    let mut out = Writer::new();
    out.byte(VERSION);
    out.len(holes.len());
    let mut last_end = None;
    for hole in holes {
        check(*hole, last_end)?;
        out.number(hole.offset - last_end.unwrap_or(0));
        out.number(hole.len);
        last_end = Some(hole.end());
    }
    Ok(out.into_bytes())
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Extent>, DecodeError> {
    let mut input = Reader::new(bytes);
    match input.byte()? {
        VERSION => {}
        other => return Err(DecodeError::Version(other)),
    }
    let count = input.count(2)?;
    if count == 0 || count > MAX_HOLES {
        return Err(DecodeError::Range("the number of holes"));
    }
    let mut holes = Vec::with_capacity(count);
    let mut last_end = None;
    for _ in 0..count {
        let offset = input.number()?.checked_add(last_end.unwrap_or(0)).ok_or(DecodeError::Number)?;
        let hole = Extent { offset, len: input.number()? };
        check(hole, last_end)?;
        last_end = Some(hole.end());
        holes.push(hole);
    }
    input.finish()?;
    Ok(holes)
}

fn check(hole: Extent, last_end: Option<u64>) -> Result<(), DecodeError> {
    let fits = hole.offset.checked_add(hole.len).is_some_and(|end| i64::try_from(end).is_ok());
    if hole.len == 0 || !fits {
        return Err(DecodeError::Range("a hole"));
    }
    // Holes that touch are one hole.
    if last_end.is_some_and(|end| hole.offset <= end) {
        return Err(DecodeError::Order("holes"));
    }
    Ok(())
}

/// The rest of a file of `size` bytes: its data.
pub fn between_holes(holes: &[Extent], size: u64) -> Vec<Extent> {
    let mut data = Vec::with_capacity(holes.len() + 1);
    let mut at = 0;
    for hole in holes {
        if hole.offset > at {
            data.push(Extent { offset: at, len: hole.offset.min(size).saturating_sub(at) });
        }
        at = hole.end();
    }
    if at < size {
        data.push(Extent { offset: at, len: size - at });
    }
    data.retain(|extent| extent.len > 0);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn hole_lists_come_back() {
        let holes = vec![extent(0, 4096), extent(8192, 1), extent(1 << 40, 1 << 40)];
        assert_eq!(decode(&encode(&holes).unwrap()).unwrap(), holes);
    }

    #[test]
    fn hostile_hole_lists_are_refused() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "empty input"),
            (b"\x02\x01\x00\x01", "unknown version"),
            (b"\x01\x00", "no holes"),
            (b"\x01\x01\x00\x00", "an empty hole"),
            (b"\x01\x02\x00\x01\x00\x01", "holes that touch"),
            (b"\x01\x01\x00\x01\x00", "trailing"),
            (b"\x01\xff\xff\xff\xff\x7f", "absurd count"),
            (b"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01", "beyond off_t"),
        ];
        for (bytes, what) in cases {
            assert!(decode(bytes).is_err(), "{what}");
        }
        assert!(encode(&[extent(4, 4), extent(8, 4)]).is_err());
    }

    #[test]
    fn data_is_what_holes_leave() {
        assert_eq!(between_holes(&[], 0), []);
        assert_eq!(between_holes(&[], 5), [extent(0, 5)]);
        assert_eq!(between_holes(&[extent(0, 5)], 5), []);
        assert_eq!(between_holes(&[extent(2, 2)], 5), [extent(0, 2), extent(4, 1)]);
        assert_eq!(between_holes(&[extent(2, 20)], 5), [extent(0, 2)]);
    }
}
