//! Identifiers: of objects (what the bytes are), of layers and threads (random).

use std::fmt;
use std::str::FromStr;

/// Text that is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an identifier of {digits} lower-case hexadecimal digits")]
pub struct IdError {
    /// The offending text.
    pub text: String,
    /// How many digits such an identifier has.
    pub digits: usize,
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let error = || IdError { text: text.to_owned(), digits: N * 2 };
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return Err(error());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return Err(error()) };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The identifier with these bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Its bytes, in the order in which they are written as text.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }
    };
}

hex_id! {
    /// The BLAKE3 hash that names an object. For blobs it is the plain hash of the logical bytes
    /// (`b3sum` agrees); trees, snapshots and hole lists use BLAKE3's key derivation with a context
    /// each, so that no two kinds ever share an identifier.
    ObjectId, 32
}

hex_id! {
    /// Names a layer's directory below `layers/`. Random, because threads share layers.
    LayerId, 16
}

hex_id! {
    /// A thread's identity, which a rename keeps. Names the thread's lock file.
    ThreadId, 16
}

impl ObjectId {
    /// The id that follows in the order of ids; none after the last.
    pub(crate) fn next(&self) -> Option<Self> {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            let (next, carry) = byte.overflowing_add(1);
            *byte = next;
            if !carry {
                return Some(Self(bytes));
            }
        }
        None
    }
}

impl LayerId {
    /// A new random identifier.
    pub fn random() -> std::io::Result<Self> {
        random_bytes().map(Self)
    }
}

impl ThreadId {
    /// A new random identifier.
    pub fn random() -> std::io::Result<Self> {
        random_bytes().map(Self)
    }
}

pub(crate) fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let id = ObjectId::from_bytes(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        assert_eq!(id.to_string().parse::<ObjectId>().unwrap(), id);
        assert_eq!(id.to_string().len(), 64);
        assert!(id.to_string().starts_with("00070e15"));
    }

    #[test]
    fn ids_have_an_order() {
        let mut bytes = [7; 32];
        bytes[31] = 0xff;
        let next = ObjectId::from_bytes(bytes).next().unwrap();
        assert!(next.to_string().ends_with("070800"), "{next}");
        assert_eq!(ObjectId::from_bytes([0xff; 32]).next(), None);
    }

    #[test]
    fn other_text_is_refused() {
        let good = "0".repeat(32);
        assert!(good.parse::<LayerId>().is_ok());
        for bad in
            ["", "00", &"0".repeat(31), &"0".repeat(33), &"G".repeat(32), &"A".repeat(32), &"é".repeat(16)]
        {
            assert!(bad.parse::<LayerId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_identifiers_differ() {
        assert_ne!(LayerId::random().unwrap(), LayerId::random().unwrap());
        assert_ne!(ThreadId::random().unwrap(), ThreadId::random().unwrap());
    }
}
