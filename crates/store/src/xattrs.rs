//! Extended attributes.

use crate::DecodeError;
use crate::codec::{Reader, Writer};
use std::collections::{BTreeMap, btree_map};

/// A file's extended attributes (xattr(7)): names of 1–255 bytes, values of at most 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Xattrs(BTreeMap<Vec<u8>, Vec<u8>>);

impl Xattrs {
    /// The longest name, in bytes (`XATTR_NAME_MAX`).
    pub const MAX_NAME: usize = 255;
    /// The longest value, in bytes (`XATTR_SIZE_MAX`).
    pub const MAX_VALUE: usize = 64 * 1024;

    /// No attributes.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Sets `name` and returns what it was. The caller keeps within [`Self::MAX_NAME`] and
    /// [`Self::MAX_VALUE`]; encoding refuses anything else.
    pub fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) -> Option<Vec<u8>> {
        self.0.insert(name, value)
    }

    /// Removes `name` and returns what it was.
    pub fn remove(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// The canonical encoding: count, then length, name, length, value for each, ordered by name.
    /// The catalog stores it as it is.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = Writer::new();
        self.write(&mut out)?;
        Ok(out.into_bytes())
    }

    /// Reads what [`Self::encode`] made, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let xattrs = Self::read(&mut input)?;
        input.finish()?;
        Ok(xattrs)
    }

    pub(crate) fn write(&self, out: &mut Writer) -> Result<(), DecodeError> {
        out.len(self.0.len());
        for (name, value) in &self.0 {
            check(name, value)?;
            out.bytes(name);
            out.bytes(value);
        }
        Ok(())
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut map = BTreeMap::new();
        Self::walk(input, |name, value| {
            map.insert(name.to_vec(), value.to_vec());
        })?;
        Ok(Self(map))
    }

    /// Checks an encoding and passes over it without keeping anything.
    pub(crate) fn skip(input: &mut Reader<'_>) -> Result<(), DecodeError> {
        Self::walk(input, |_, _| ())
    }

    fn walk<'a>(
        input: &mut Reader<'a>,
        mut found: impl FnMut(&'a [u8], &'a [u8]),
    ) -> Result<(), DecodeError> {
        // Two lengths and one byte of name are the least an attribute takes.
        let count = input.count(3)?;
        let mut last: &[u8] = b"";
        for _ in 0..count {
            let name = input.bytes(Self::MAX_NAME)?;
            let value = input.bytes(Self::MAX_VALUE)?;
            check(name, value)?;
            // No name is empty, so the first is greater than the start value.
            if name <= last {
                return Err(DecodeError::Order("extended attributes"));
            }
            found(name, value);
            last = name;
        }
        Ok(())
    }
}

fn check(name: &[u8], value: &[u8]) -> Result<(), DecodeError> {
    if name.is_empty() || name.len() > Xattrs::MAX_NAME || name.contains(&0) {
        return Err(DecodeError::Range("the name of an extended attribute"));
    }
    if value.len() > Xattrs::MAX_VALUE {
        return Err(DecodeError::Range("the value of an extended attribute"));
    }
    Ok(())
}

impl FromIterator<(Vec<u8>, Vec<u8>)> for Xattrs {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl IntoIterator for Xattrs {
    type Item = (Vec<u8>, Vec<u8>);
    type IntoIter = btree_map::IntoIter<Vec<u8>, Vec<u8>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Xattrs {
        [(b"user.b".to_vec(), vec![0, 255]), (b"user.a".to_vec(), vec![])].into_iter().collect()
    }

    #[test]
    fn encoding_comes_back() {
        for xattrs in [Xattrs::new(), sample()] {
            assert_eq!(Xattrs::decode(&xattrs.encode().unwrap()).unwrap(), xattrs);
        }
    }

    #[test]
    fn hostile_attributes_are_refused() {
        let cases: [(&[u8], &str); 7] = [
            (b"", "empty input"),
            (b"\x01\x00\x00", "empty name"),
            (b"\x02\x01b\x00\x01a\x00", "unordered"),
            (b"\x02\x01a\x00\x01a\x00", "doubled"),
            (b"\x01\x01\x00\x00", "NUL in a name"),
            (b"\x00\x00", "trailing"),
            (b"\xff\xff\xff\xff\x7f", "absurd count"),
        ];
        for (bytes, what) in cases {
            assert!(Xattrs::decode(bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn sizes_beyond_the_kernels_limits_are_not_encoded() {
        let long: Xattrs = [(vec![b'n'; 256], vec![])].into_iter().collect();
        assert!(long.encode().is_err());
        let large: Xattrs = [(b"user.x".to_vec(), vec![0; 65537])].into_iter().collect();
        assert!(large.encode().is_err());
    }
}
