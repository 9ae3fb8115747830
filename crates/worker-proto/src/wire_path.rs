//! Paths in JSON.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path as JSON shows it: a string if its bytes are UTF-8, else `{"bytes": "<base64>"}`.
///
/// Linux paths are bytes, JSON strings are not; this form loses nothing and leaves the usual case readable.
/// It is the form of the command line's `--json` output as well. A path with a NUL byte cannot exist and is
/// refused when read. Nothing else is checked: the text is the peer's, not a promise that the path is absolute
/// or that something is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WirePath(pub PathBuf);

impl WirePath {
    /// The path itself.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path itself, owned.
    pub fn into_path_buf(self) -> PathBuf {
        self.0
    }
}

impl<P: Into<PathBuf>> From<P> for WirePath {
    fn from(path: P) -> Self {
        Self(path.into())
    }
}

impl AsRef<Path> for WirePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes { bytes: String },
}

impl Serialize for WirePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => {
                Form::Bytes { bytes: STANDARD.encode(self.0.as_os_str().as_bytes()) }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes { bytes } => {
                STANDARD.decode(bytes).map_err(|error| D::Error::custom(format_args!("path: {error}")))?
            }
        };
        if bytes.contains(&0) {
            return Err(D::Error::custom("path: has a NUL byte"));
        }
        Ok(Self(PathBuf::from(OsString::from_vec(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn utf8_paths_are_plain_strings() {
        assert_eq!(serde_json::to_string(&WirePath::from("/a/ü")).unwrap(), "\"/a/ü\"");
    }

    #[test]
    fn other_paths_are_base64() {
        let path = WirePath(PathBuf::from(OsString::from_vec(vec![b'/', 0xff])));
        assert_eq!(serde_json::to_string(&path).unwrap(), r#"{"bytes":"L/8="}"#);
    }

    #[test]
    fn nul_bytes_are_refused() {
        assert!(serde_json::from_str::<WirePath>(r#""/a\u0000b""#).is_err());
        assert!(serde_json::from_str::<WirePath>(r#"{"bytes":"AA=="}"#).is_err());
    }

    proptest! {
        #[test]
        fn every_path_survives_the_wire(bytes in proptest::collection::vec(1u8.., 0..64)) {
            let path = WirePath(PathBuf::from(OsString::from_vec(bytes)));
            let json = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<WirePath>(&json).unwrap(), path);
        }
    }
}
