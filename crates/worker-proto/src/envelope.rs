//! What stands in a frame.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A [`Command`](crate::Command) or an [`Event`](crate::Event).
pub trait Message: Serialize + DeserializeOwned {
    /// The names of all variants, so that a name from a newer peer is told apart from nonsense.
    const KINDS: &'static [&'static str];
}

/// One message with what ties it to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "M: DeserializeOwned"))]
pub struct Envelope<M> {
    /// Chosen by the supervisor for each command and borne by every answer to it; 0 for news.
    pub id: u64,
    /// How many descriptors ride along with this frame.
    #[serde(default)]
    pub fds: u32,
    /// The message.
    pub msg: M,
}

impl<M: Message> Envelope<M> {
    /// An envelope without descriptors; [`Sender::send`](crate::Sender::send) sets their number.
    pub const fn new(id: u64, msg: M) -> Self {
        Self { id, fds: 0, msg }
    }

    /// The frame's body.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads a frame's body. Unknown fields are ignored, an unknown kind is an error of its own.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        // The second parse happens only for what is refused, so the usual path builds no tree of values.
        serde_json::from_slice(body).map_err(|source| Self::diagnose(body, source))
    }

    fn diagnose(body: &[u8], source: serde_json::Error) -> DecodeError {
        if let Err(source) = std::str::from_utf8(body) {
            return DecodeError::Utf8 { source };
        }
        let Ok(Value::Object(envelope)) = serde_json::from_slice::<Value>(body) else {
            return DecodeError::Json { id: None, source };
        };
        let id = envelope.get("id").and_then(Value::as_u64);
        let kind = match envelope.get("msg") {
            Some(Value::String(kind)) => Some(kind),
            Some(Value::Object(fields)) if fields.len() == 1 => fields.keys().next(),
            _ => None,
        };
        match kind {
            Some(kind) if !M::KINDS.contains(&kind.as_str()) => {
                let end = kind.floor_char_boundary(MAX_KIND);
                DecodeError::UnknownKind { id, kind: kind[..end].to_owned() }
            }
            _ => DecodeError::Json { id, source },
        }
    }
}

/// How much of a foreign kind's name is kept for the message.
const MAX_KIND: usize = 64;

/// A frame's body that is no message. The stream itself is still whole: the next frame can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body is not UTF-8.
    #[error("frame is not UTF-8: {source}")]
    Utf8 {
        /// Where it stops being so.
        source: std::str::Utf8Error,
    },
    /// The body is not JSON, nests too deeply, or lacks a field.
    #[error("frame is not a message: {source}")]
    Json {
        /// The envelope's number, if that much could be read.
        id: Option<u64>,
        /// What the parser met.
        source: serde_json::Error,
    },
    /// The message is of a kind that this version does not know.
    #[error("message of unknown kind {kind:?}")]
    UnknownKind {
        /// The envelope's number, if that much could be read.
        id: Option<u64>,
        /// The kind, cut to a printable length.
        kind: String,
    },
}

impl DecodeError {
    /// The envelope's number, for an answer that says what was wrong.
    pub const fn id(&self) -> Option<u64> {
        match self {
            Self::Utf8 { .. } => None,
            Self::Json { id, .. } | Self::UnknownKind { id, .. } => *id,
        }
    }
}
