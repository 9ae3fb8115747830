//! Thread names.

use std::fmt;
use std::str::FromStr;

/// The longest thread name, in bytes.
const MAX_LEN: usize = 100;

/// A thread's name: 1–100 of letters, digits, `.`, `_`, `-`, not starting with `-` or `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadName(String);

/// Text that cannot name a thread.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no thread name: {reason}")]
pub struct NameError {
    /// The offending text.
    pub text: String,
    /// The rule it breaks.
    pub reason: &'static str,
}

impl ThreadName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ThreadName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > MAX_LEN {
            "it is longer than 100 characters"
        } else if !text.bytes().all(allowed) {
            "only letters, digits, '.', '_' and '-' are allowed"
        } else if text.starts_with(['-', '.']) {
            "it starts with '-' or '.'"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(NameError { text: text.to_owned(), reason })
    }
}

impl fmt::Display for ThreadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsRef<str> for ThreadName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_the_rules_are_accepted() {
        for good in ["a", "main", "A.b_c-9", "_x", "0", &"n".repeat(100)] {
            assert_eq!(good.parse::<ThreadName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn bad_thread_names_are_refused() {
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a b", "é", "a\n", "a\0", &"n".repeat(101)] {
            assert!(bad.parse::<ThreadName>().is_err(), "{bad:?}");
        }
    }
}
