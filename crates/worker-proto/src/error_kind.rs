//! The kinds of failure, shared by the worker's events and the command line's exit codes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as far as a program needs to know; the text beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Something failed that fits no other kind (exit code 1).
    Failed,
    /// The request itself makes no sense (exit code 2).
    Usage,
    /// No such thread, snapshot, mount or directory (exit code 3).
    NotFound,
    /// The request collides with the present state: exists, busy, dirty, mounted (exit code 4).
    Conflict,
    /// The system or the rules of ownership refuse it (exit code 5).
    NotPermitted,
    /// A deadline passed (exit code 6).
    TimedOut,
}

impl ErrorKind {
    /// Every kind, in the order of the exit codes.
    pub const ALL: [Self; 6] =
        [Self::Failed, Self::Usage, Self::NotFound, Self::Conflict, Self::NotPermitted, Self::TimedOut];

    /// The exit code of the command line for this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::NotPermitted => 5,
            Self::TimedOut => 6,
        }
    }

    /// The name on the wire and in the command line's JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::NotPermitted => "not_permitted",
            Self::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_exit_codes_agree_with_the_wire() {
        for (kind, code) in ErrorKind::ALL.into_iter().zip(1..) {
            assert_eq!(kind.exit_code(), code);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
