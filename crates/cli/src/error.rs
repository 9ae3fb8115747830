//! The command line's errors: one kind, which is the exit code, one message, and what to do next.

use std::fmt;

use selvedge_worker_proto::{ErrorKind, Failure, advice};
use serde::{Deserialize, Serialize};

/// What a command ends with when it could not do what was asked.
///
/// Serialised, it is the `error` object of `--json`, and travels as such over the control socket too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CliError {
    /// Which kind, and with it the exit code.
    pub kind: ErrorKind,
    /// What was tried and what went wrong, without a trailing full stop.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub hint: String,
}

/// An error that does not say yet what to do next, and therefore is none yet: [`Problem::hint`] makes it one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Problem {
    kind: ErrorKind,
    message: String,
}

/// The result of a command and its parts.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

impl Problem {
    /// The error, with what to do next.
    pub fn hint(self, hint: impl Into<String>) -> CliError {
        CliError { kind: self.kind, message: self.message, hint: hint.into() }
    }
}

impl CliError {
    /// A problem of `kind`, saying `message`.
    #[expect(clippy::new_ret_no_self, reason = "an error begins as a problem without advice")]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Problem {
        Problem { kind, message: message.into() }
    }

    /// Something failed that fits no other kind.
    pub fn failed(message: impl Into<String>) -> Problem {
        Self::new(ErrorKind::Failed, message)
    }

    /// The request makes no sense.
    pub fn usage(message: impl Into<String>) -> Problem {
        Self::new(ErrorKind::Usage, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Problem {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The request collides with the present state.
    pub fn conflict(message: impl Into<String>) -> Problem {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The system or the rules of ownership refuse it.
    pub fn not_permitted(message: impl Into<String>) -> Problem {
        Self::new(ErrorKind::NotPermitted, message)
    }

    /// A deadline passed.
    pub fn timed_out(message: impl Into<String>) -> Problem {
        Self::new(ErrorKind::TimedOut, message)
    }

    /// What the system answered to an attempt, with the advice that suits the answer. EACCES, EPERM and EROFS are
    /// a kind of their own.
    pub fn io(tried: impl fmt::Display, source: &std::io::Error) -> Self {
        Self::new(kind_of(source), format!("{tried}: {}", system_text(source))).hint(advice(source))
    }

    /// This error with other advice.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// This error with other advice if it is of `kind`: the advice that suits one kind misleads in another.
    #[must_use]
    pub fn hint_if(self, kind: ErrorKind, hint: impl Into<String>) -> Self {
        if self.kind == kind { self.hint(hint) } else { self }
    }

    /// This error as the outcome of `tried`, which its message then begins with.
    #[must_use]
    pub fn context(mut self, tried: impl fmt::Display) -> Self {
        self.message = format!("{tried}: {}", self.message);
        self
    }

    /// The exit code.
    pub const fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

/// The kind of an answer of the system.
pub fn kind_of(source: &std::io::Error) -> ErrorKind {
    match source.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::NotPermitted
        }
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => ErrorKind::TimedOut,
        _ => ErrorKind::Failed,
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let hint = match (failure.hint.as_str(), failure.kind) {
            ("", ErrorKind::Usage) => {
                "use a selvedge and a selvedge-fuse-worker that were installed together"
            }
            ("", ErrorKind::TimedOut) => "try again",
            ("", _) => "try again; with -v selvedge logs what leads to it",
            (hint, _) => hint,
        };
        Self::new(failure.kind, without_numbers(&failure.message)).hint(hint)
    }
}

/// An error and its causes on one line, without Rust's "(os error N)". A cause that the text before it already
/// quotes is not repeated.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // SQLite's numbers stand for the words before them.
        if !text.contains(&cause_text) && !cause_text.starts_with("Error code ") {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    without_numbers(&text)
}

/// What the system says, without Rust's "(os error N)".
pub fn system_text(error: &std::io::Error) -> String {
    without_numbers(&error.to_string())
}

fn without_numbers(text: &str) -> String {
    const MARK: &str = " (os error ";
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(MARK) {
        plain.push_str(before);
        match after.split_once(')') {
            Some((number, beyond)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest = beyond,
            _ => {
                plain.push_str(MARK);
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_is_not_permitted() {
        let error = CliError::io("cannot open /x", &std::io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(error.kind, ErrorKind::NotPermitted);
        assert_eq!(error.message, "cannot open /x: Permission denied");
        assert!(error.hint.contains("ls -ld"), "{}", error.hint);
    }

    #[test]
    fn what_a_worker_says_is_without_numbers_too() {
        let failure = Failure::new(ErrorKind::Failed, "a: b (os error 5)").hint("c");
        assert_eq!(CliError::from(failure), CliError::failed("a: b").hint("c"));
    }

    #[test]
    fn error_numbers_are_for_nobody() {
        assert_eq!(without_numbers("a (os error 13): b (os error 2)"), "a: b");
        assert_eq!(without_numbers("a (os error x)"), "a (os error x)");
    }

    #[test]
    fn json_has_kind_message_and_hint() {
        let error = CliError::conflict("busy").hint("wait");
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(json, r#"{"kind":"conflict","message":"busy","hint":"wait"}"#);
    }
}
