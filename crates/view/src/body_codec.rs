//! How a catalog stores where a node's bytes are.

use crate::coverage::Coverage;
use crate::inode::{Body, Patch};
use selvedge_store::{LayerId, ObjectId};

const NONE: u8 = 0;
const BLOB: u8 = 1;
const FILE: u8 = 2;
const TREE: u8 = 3;
const TARGET: u8 = 4;
const PATCHED: u8 = 5;

/// The bytes of a `body` or `fallback` column: a tag, then the fields at fixed places.
pub(crate) fn encode(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(42);
    match body {
        Body::None => bytes.push(NONE),
        Body::Blob { id, size, holes } => {
            bytes.push(BLOB);
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(&size.to_le_bytes());
            if let Some(holes) = holes {
                bytes.extend_from_slice(holes.as_bytes());
            }
        }
        Body::File { layer } => {
            bytes.push(FILE);
            bytes.extend_from_slice(layer.as_bytes());
        }
        Body::Patched(patch) => {
            bytes.push(PATCHED);
            bytes.extend_from_slice(patch.layer.as_bytes());
            bytes.extend_from_slice(patch.blob.as_bytes());
            bytes.extend_from_slice(&patch.size.to_le_bytes());
            bytes.push(u8::from(patch.holes.is_some()));
            if let Some(holes) = &patch.holes {
                bytes.extend_from_slice(holes.as_bytes());
            }
            bytes.extend_from_slice(&patch.durable.encode());
        }
        Body::Tree { id } => {
            bytes.push(TREE);
            bytes.extend_from_slice(id.as_bytes());
        }
        Body::Target(target) => {
            bytes.push(TARGET);
            bytes.extend_from_slice(target);
        }
    }
    bytes
}

/// The body that `bytes` stand for; `None` when they stand for nothing.
pub(crate) fn decode(bytes: &[u8]) -> Option<Body> {
    let (&tag, rest) = bytes.split_first()?;
    match tag {
        NONE => rest.is_empty().then_some(Body::None),
        BLOB => {
            let (id, rest) = rest.split_first_chunk::<32>()?;
            let (size, rest) = rest.split_first_chunk::<8>()?;
            let holes = match rest.len() {
                0 => None,
                _ => Some(object(rest)?),
            };
            Some(Body::Blob { id: ObjectId::from_bytes(*id), size: u64::from_le_bytes(*size), holes })
        }
        FILE => Some(Body::File { layer: LayerId::from_bytes(rest.try_into().ok()?) }),
        PATCHED => {
            let (layer, rest) = rest.split_first_chunk::<16>()?;
            let (blob, rest) = rest.split_first_chunk::<32>()?;
            let (size, rest) = rest.split_first_chunk::<8>()?;
            let (holes, rest) = match rest.split_first()? {
                (0, rest) => (None, rest),
                (1, rest) => {
                    let (holes, rest) = rest.split_first_chunk::<32>()?;
                    (Some(ObjectId::from_bytes(*holes)), rest)
                }
                _ => return None,
            };
            Some(Body::Patched(Box::new(Patch {
                layer: LayerId::from_bytes(*layer),
                blob: ObjectId::from_bytes(*blob),
                size: u64::from_le_bytes(*size),
                holes,
                durable: Coverage::decode(rest)?,
            })))
        }
        TREE => Some(Body::Tree { id: object(rest)? }),
        TARGET => Some(Body::Target(rest.to_vec())),
        _ => None,
    }
}

fn object(bytes: &[u8]) -> Option<ObjectId> {
    Some(ObjectId::from_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(holes: Option<ObjectId>) -> Body {
        let mut durable = Coverage::none(1 << 30, 1 << 16);
        durable.claim(&(5 << 20..9 << 20));
        let (layer, blob) = (LayerId::from_bytes([3; 16]), ObjectId::from_bytes([8; 32]));
        Body::Patched(Box::new(Patch { layer, blob, size: 1 << 30, holes, durable }))
    }

    #[test]
    fn bodies_survive_their_encoding() {
        let id = ObjectId::from_bytes([7; 32]);
        for body in [
            Body::None,
            Body::Blob { id, size: 1 << 40, holes: None },
            Body::Blob { id, size: 0, holes: Some(ObjectId::from_bytes([9; 32])) },
            Body::File { layer: LayerId::from_bytes([3; 16]) },
            patched(None),
            patched(Some(id)),
            Body::Tree { id },
            Body::Target(b"../x".to_vec()),
        ] {
            assert_eq!(decode(&encode(&body)), Some(body));
        }
    }

    #[test]
    fn torn_bodies_are_refused() {
        let whole = encode(&Body::Blob {
            id: ObjectId::from_bytes([7; 32]),
            size: 5,
            holes: Some(ObjectId::from_bytes([1; 32])),
        });
        for len in 0..whole.len() {
            // A blob without its holes is whole by itself.
            if len != 41 {
                assert_eq!(decode(&whole[..len]), None, "cut at {len}");
            }
        }
        let whole = encode(&patched(Some(ObjectId::from_bytes([1; 32]))));
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len]), None, "cut at {len}");
        }
        assert_eq!(decode(&[9, 1, 2]), None);
    }
}
