//! The bytes that stand for one mutation in a journal.
//!
//! Numbers have a fixed length and are little-endian; bytes are their count (4) and themselves; what may be absent is a
//! byte, 1 if it follows. What decodes encodes to the same bytes again.

use crate::body_codec;
use crate::catalog::Unsettled;
use crate::commit::Effect;
use crate::error::{Result, ViewError};
use crate::inode::{Applied, Inode};
use crate::request::RequestKey;
use selvedge_store::{FileKind, Ino, Timestamp, Xattrs};
use std::sync::Arc;

const PUT_INODE: u8 = 1;
const DELETE_INODE: u8 = 2;
const PUT_NAME: u8 = 3;
const WHITEOUT: u8 = 4;
const DROP_NAME: u8 = 5;
const DROP_NAMES: u8 = 6;
const ADD_ORPHAN: u8 = 7;
const DROP_ORPHAN: u8 = 8;
const UNSETTLE: u8 = 9;
const SETTLE: u8 = 10;
const FOUND: u8 = 11;
const ADD_ORPHAN_SINCE: u8 = 12;

/// Adds what stands for `effects`.
///
/// # Errors
/// When a node's extended attributes are none that can be kept.
pub(crate) fn encode(effects: &[Effect], into: &mut Vec<u8>) -> Result<()> {
    for effect in effects {
        match effect {
            Effect::PutInode(inode) => {
                into.push(PUT_INODE);
                encode_row(inode, into)?;
            }
            Effect::DeleteInode(ino) => put_number(into, DELETE_INODE, *ino),
            Effect::PutName { parent, name, ino, kind } => {
                put_named(into, PUT_NAME, *parent, name);
                put_ino(into, *ino);
                into.push(kind.code());
            }
            Effect::Whiteout { parent, name } => put_named(into, WHITEOUT, *parent, name),
            Effect::DropName { parent, name } => put_named(into, DROP_NAME, *parent, name),
            Effect::DropNames(parent) => put_number(into, DROP_NAMES, *parent),
            Effect::AddOrphan { ino, since: None } => put_number(into, ADD_ORPHAN, *ino),
            Effect::AddOrphan { ino, since: Some(since) } => {
                put_number(into, ADD_ORPHAN_SINCE, *ino);
                put_time(into, *since);
            }
            Effect::DropOrphan(ino) => put_number(into, DROP_ORPHAN, *ino),
            Effect::Unsettle(Unsettled { parent, name, old, source, from }) => {
                put_named(into, UNSETTLE, *parent, name);
                put_ino(into, *old);
                put_ino(into, *source);
                put_ino(into, from.0);
                put_bytes(into, &from.1);
            }
            Effect::Settle { parent, name } => put_named(into, SETTLE, *parent, name),
            Effect::Found => into.push(FOUND),
        }
    }
    Ok(())
}

/// The effects that `bytes` stand for; `None` when they stand for nothing.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Effect>> {
    let mut from = Decoder(bytes);
    let mut effects = Vec::new();
    while !from.0.is_empty() {
        effects.push(from.effect()?);
    }
    Some(effects)
}

/// The node that `bytes` stand for; `None` when they stand for nothing.
pub(crate) fn decode_row(bytes: &[u8]) -> Option<Inode> {
    let mut from = Decoder(bytes);
    let inode = from.inode()?;
    from.0.is_empty().then_some(inode)
}

fn put_number(into: &mut Vec<u8>, tag: u8, ino: Ino) {
    into.push(tag);
    put_ino(into, ino);
}

fn put_named(into: &mut Vec<u8>, tag: u8, parent: Ino, name: &[u8]) {
    put_number(into, tag, parent);
    put_bytes(into, name);
}

fn put_ino(into: &mut Vec<u8>, ino: Ino) {
    into.extend_from_slice(&ino.0.to_le_bytes());
}

fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    // Names, targets and attributes end long before.
    into.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend_from_slice(bytes);
}

fn put_time(into: &mut Vec<u8>, time: Timestamp) {
    into.extend_from_slice(&time.sec.to_le_bytes());
    into.extend_from_slice(&time.nsec.to_le_bytes());
}

fn put_optional<T>(into: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    into.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(into, value);
    }
}

/// Adds what stands for a node.
///
/// # Errors
/// When its extended attributes are none that can be kept.
pub(crate) fn encode_row(inode: &Inode, into: &mut Vec<u8>) -> Result<()> {
    put_ino(into, inode.ino);
    into.push(inode.kind.code());
    for number in [inode.mode, inode.uid, inode.gid, inode.nlink] {
        into.extend_from_slice(&number.to_le_bytes());
    }
    into.extend_from_slice(&inode.rdev.to_le_bytes());
    for time in [inode.atime, inode.mtime, inode.ctime] {
        put_time(into, time);
    }
    put_optional(into, inode.host_ctime, put_time);
    put_optional(into, inode.parent, put_ino);
    put_bytes(into, &body_codec::encode(&inode.body));
    put_optional(into, inode.fallback.as_ref(), |into, body| put_bytes(into, &body_codec::encode(body)));
    let xattrs = inode.xattrs.encode();
    let xattrs = xattrs.map_err(|error| ViewError::Damaged { ino: inode.ino, why: error.to_string() })?;
    put_bytes(into, &xattrs);
    put_optional(into, inode.applied, |into, applied| {
        into.extend_from_slice(&applied.key.epoch.to_le_bytes());
        into.extend_from_slice(&applied.key.unique.to_le_bytes());
        put_ino(into, applied.result);
    });
    Ok(())
}

/// What is left to decode.
struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn effect(&mut self) -> Option<Effect> {
        Some(match self.byte()? {
            PUT_INODE => Effect::PutInode(Arc::new(self.inode()?)),
            DELETE_INODE => Effect::DeleteInode(self.ino()?),
            PUT_NAME => Effect::PutName {
                parent: self.ino()?,
                name: self.bytes()?.to_vec(),
                ino: self.ino()?,
                kind: self.kind()?,
            },
            WHITEOUT => Effect::Whiteout { parent: self.ino()?, name: self.bytes()?.to_vec() },
            DROP_NAME => Effect::DropName { parent: self.ino()?, name: self.bytes()?.to_vec() },
            DROP_NAMES => Effect::DropNames(self.ino()?),
            ADD_ORPHAN => Effect::AddOrphan { ino: self.ino()?, since: None },
            ADD_ORPHAN_SINCE => Effect::AddOrphan { ino: self.ino()?, since: Some(self.time()?) },
            DROP_ORPHAN => Effect::DropOrphan(self.ino()?),
            UNSETTLE => Effect::Unsettle(Unsettled {
                parent: self.ino()?,
                name: self.bytes()?.to_vec(),
                old: self.ino()?,
                source: self.ino()?,
                from: (self.ino()?, self.bytes()?.to_vec()),
            }),
            SETTLE => Effect::Settle { parent: self.ino()?, name: self.bytes()?.to_vec() },
            FOUND => Effect::Found,
            _ => return None,
        })
    }

    fn inode(&mut self) -> Option<Inode> {
        Some(Inode {
            ino: self.ino()?,
            kind: self.kind()?,
            mode: self.short()?,
            uid: self.short()?,
            gid: self.short()?,
            nlink: self.short()?,
            rdev: self.long()?,
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
            host_ctime: self.optional(Self::time)?,
            parent: self.optional(Self::ino)?,
            body: body_codec::decode(self.bytes()?)?,
            fallback: self.optional(|from| body_codec::decode(from.bytes()?))?,
            xattrs: Xattrs::decode(self.bytes()?).ok()?,
            applied: self.optional(|from| {
                let key = RequestKey { epoch: from.long()?, unique: from.long()? };
                Some(Applied { key, result: from.ino()? })
            })?,
        })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, left) = self.0.split_first_chunk()?;
        self.0 = left;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn short(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn ino(&mut self) -> Option<Ino> {
        self.long().map(Ino)
    }

    fn kind(&mut self) -> Option<FileKind> {
        FileKind::from_code(self.byte()?)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.short()?).ok()?;
        let (taken, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        Some(taken)
    }

    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp { sec: self.take().map(i64::from_le_bytes)?, nsec: self.short()? })
    }

    #[expect(clippy::option_option, reason = "absent, and not to be decoded, are two things")]
    fn optional<T>(&mut self, value: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => value(self).map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::Body;
    use selvedge_store::{LayerId, ObjectId};

    fn inode(ino: u64, full: bool) -> Inode {
        let time = |sec| Timestamp { sec, nsec: 999_999_999 };
        let mut xattrs = Xattrs::new();
        if full {
            xattrs.insert(b"user.a".to_vec(), b"\0\xff".to_vec());
        }
        let key = RequestKey { epoch: u64::MAX, unique: 7 };
        Inode {
            ino: Ino(ino),
            kind: FileKind::Regular,
            mode: 0o7644,
            uid: u32::MAX,
            gid: 3,
            nlink: 4,
            rdev: 5,
            atime: time(-1),
            mtime: time(i64::MAX),
            ctime: time(i64::MIN),
            host_ctime: full.then(|| time(8)),
            parent: full.then_some(Ino(9)),
            body: Body::File { layer: LayerId::from_bytes([3; 16]) },
            fallback: full.then(|| Body::Blob { id: ObjectId::from_bytes([7; 32]), size: 5, holes: None }),
            xattrs,
            applied: full.then_some(Applied { key, result: Ino(10) }),
        }
    }

    /// One effect of each kind.
    fn effects() -> Vec<Effect> {
        let (parent, name) = (Ino(2), b"name \xff".to_vec());
        vec![
            Effect::PutInode(Arc::new(inode(20, true))),
            Effect::PutInode(Arc::new(inode(21, false))),
            Effect::DeleteInode(Ino(u64::MAX)),
            Effect::PutName { parent, name: name.clone(), ino: Ino(20), kind: FileKind::BlockDevice },
            Effect::Whiteout { parent, name: name.clone() },
            Effect::DropName { parent, name: name.clone() },
            Effect::DropNames(parent),
            Effect::AddOrphan { ino: Ino(20), since: None },
            Effect::AddOrphan { ino: Ino(20), since: Some(Timestamp { sec: -1, nsec: 5 }) },
            Effect::DropOrphan(Ino(20)),
            Effect::Unsettle(Unsettled {
                parent,
                name: name.clone(),
                old: Ino(1),
                source: Ino(2),
                from: (Ino(3), b"from".to_vec()),
            }),
            Effect::Settle { parent, name },
            Effect::Found,
        ]
    }

    fn encoded(effects: &[Effect]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(effects, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn effects_survive_their_encoding() {
        assert_eq!(decode(&encoded(&effects())), Some(effects()));
        assert_eq!(decode(&[]), Some(Vec::new()));
    }

    #[test]
    fn what_is_cut_off_within_an_effect_is_refused() {
        for effect in effects() {
            let whole = encoded(std::slice::from_ref(&effect));
            for cut in 1..whole.len() {
                assert_eq!(decode(&whole[..cut]), None, "{effect:?} cut at {cut}");
            }
            let longer = [&whole[..], &[0]].concat();
            assert_eq!(decode(&longer), None, "{effect:?} with a byte after it");
        }
    }
}
