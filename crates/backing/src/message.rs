//! What worker and helper say to each other: messages of a fixed length on a socket that keeps their boundaries.
//!
//! A request is version, operation, two zero bytes and a number; a reply is version, outcome, two zero bytes and a number,
//! which all are little-endian. Descriptors ride along with requests: the connection, and behind it the file.

use crate::error::Refusal;

/// Bytes of each message.
pub(crate) const LENGTH: usize = 8;

/// Goes up whenever a message comes to mean something else.
const VERSION: u8 = 1;

/// What the helper is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Have a connection know a file: two descriptors.
    Open,
    /// Have it let go of the file with this number: one descriptor.
    Close(u32),
}

impl Request {
    pub(crate) const fn descriptors(self) -> usize {
        match self {
            Self::Open => 2,
            Self::Close(_) => 1,
        }
    }

    pub(crate) const fn encode(self) -> [u8; LENGTH] {
        match self {
            Self::Open => message(1, 0),
            Self::Close(id) => message(2, id),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match parts(bytes)? {
            (1, 0) => Some(Self::Open),
            (2, id) => Some(Self::Close(id)),
            _ => None,
        }
    }
}

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It is done; the number of the file.
    Done(u32),
    /// The kernel refused with this error number.
    Failed(u32),
    /// The helper refused.
    Refused(Refusal),
}

impl Reply {
    pub(crate) fn encode(self) -> [u8; LENGTH] {
        match self {
            Self::Done(id) => message(0, id),
            Self::Failed(errno) => message(1, errno),
            Self::Refused(why) => {
                let place = (0..).zip(Refusal::ALL).find(|(_, one)| *one == why);
                message(2, place.map_or(0, |(place, _)| place))
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match parts(bytes)? {
            (0, id) => Some(Self::Done(id)),
            (1, errno) => Some(Self::Failed(errno)),
            (2, place) => Some(Self::Refused(*Refusal::ALL.get(usize::try_from(place).ok()?)?)),
            _ => None,
        }
    }
}

const fn message(kind: u8, number: u32) -> [u8; LENGTH] {
    let [a, b, c, d] = number.to_le_bytes();
    [VERSION, kind, 0, 0, a, b, c, d]
}

fn parts(bytes: &[u8]) -> Option<(u8, u32)> {
    match *bytes {
        [VERSION, kind, 0, 0, a, b, c, d] => Some((kind, u32::from_le_bytes([a, b, c, d]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_they_were() {
        assert_eq!(Request::Open.encode(), [1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Request::Close(0x0102_0304).encode(), [1, 2, 0, 0, 4, 3, 2, 1]);
        assert_eq!(Reply::Done(7).encode(), [1, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(Reply::Failed(1).encode(), [1, 1, 0, 0, 1, 0, 0, 0]);
        assert_eq!(Reply::Refused(Refusal::FileSystem).encode(), [1, 2, 0, 0, 6, 0, 0, 0]);
    }

    #[test]
    fn what_was_said_is_what_is_heard_and_nothing_else_is() {
        for request in [Request::Open, Request::Close(0), Request::Close(u32::MAX)] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let refusals = Refusal::ALL.map(Reply::Refused);
        for reply in refusals.into_iter().chain([Reply::Done(1), Reply::Failed(22)]) {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        for nonsense in [
            &[][..],
            &[1, 1, 0, 0],
            &[2, 1, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 1, 0, 0, 0, 0],
            &[1, 1, 0, 0, 1, 0, 0, 0],
            &[1, 3, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(Request::decode(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(Reply::decode(&[1, 2, 0, 0, 7, 0, 0, 0]), None);
    }
}
