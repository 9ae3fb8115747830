//! The alphabet of all encodings: bytes, shortest-form variable-length numbers, length-prefixed
//! strings. Reading never allocates and never trusts a length.

use crate::{DecodeError, ObjectId, Timestamp};

/// Appends values to a byte string.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// LEB128, least significant group first.
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// Zigzag, so that small negative numbers are short too.
    pub(crate) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    pub(crate) fn len(&mut self, len: usize) {
        self.number(len as u64);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.len(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn id(&mut self, id: &ObjectId) {
        self.0.extend_from_slice(id.as_bytes());
    }

    pub(crate) fn time(&mut self, time: Timestamp) -> Result<(), DecodeError> {
        if !time.is_valid() {
            return Err(DecodeError::Range("nanoseconds"));
        }
        self.signed(time.sec);
        self.number(time.nsec.into());
        Ok(())
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Takes values from the front of a byte string.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if shift == 63 && group > 1 {
                return Err(DecodeError::Number);
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                // A last group of zero means that a shorter form exists.
                return if group == 0 && shift > 0 { Err(DecodeError::Number) } else { Ok(value) };
            }
        }
        Err(DecodeError::Number)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, DecodeError> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn number32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.number()?).map_err(|_| DecodeError::Range(what))
    }

    /// A count of things that take at least `least` bytes each: never more than the bytes at hand
    /// could hold, so that it may size an allocation.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.number()?).map_err(|_| DecodeError::Truncated)?;
        if count > self.rest.len() / least {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.number()?).map_err(|_| DecodeError::Truncated)?;
        if len > most {
            return Err(DecodeError::Range("a length"));
        }
        self.take(len)
    }

    pub(crate) fn id(&mut self) -> Result<ObjectId, DecodeError> {
        let (id, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(ObjectId::from_bytes(*id))
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, DecodeError> {
        let sec = self.signed()?;
        let nsec = self.number32("nanoseconds")?;
        let time = Timestamp { sec, nsec };
        if time.is_valid() { Ok(time) } else { Err(DecodeError::Range("nanoseconds")) }
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(DecodeError::Trailing(more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64) {
            let mut out = Writer::new();
            out.number(value);
            out.signed(signed);
            let bytes = out.into_bytes();
            let mut input = Reader::new(&bytes);
            prop_assert_eq!(input.number(), Ok(value));
            prop_assert_eq!(input.signed(), Ok(signed));
            prop_assert_eq!(input.finish(), Ok(()));
        }

        #[test]
        fn what_is_read_is_the_only_form(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut input = Reader::new(&bytes);
            if let Ok(value) = input.number() {
                let mut out = Writer::new();
                out.number(value);
                let used = bytes.len() - input.remaining();
                prop_assert_eq!(out.as_slice(), &bytes[..used]);
            }
        }
    }

    #[test]
    fn longer_forms_and_overflows_are_refused() {
        let overflow = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        let endless = [0x80; 11];
        for bad in [&[0x80, 0x00][..], &[0x81, 0x80, 0x00], &overflow, &endless] {
            assert_eq!(Reader::new(bad).number(), Err(DecodeError::Number), "{bad:?}");
        }
        assert_eq!(Reader::new(&[0x80]).number(), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_count_is_bounded_by_the_bytes_at_hand() {
        assert_eq!(Reader::new(&[3, 0, 0, 0]).count(1), Ok(3));
        assert_eq!(Reader::new(&[3, 0, 0, 0]).count(2), Err(DecodeError::Truncated));
    }
}
