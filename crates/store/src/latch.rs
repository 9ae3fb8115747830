//! After a failed durable write nothing more is written.

use std::sync::OnceLock;

/// Remembers the first failure. What the disk holds after a failed sync is unknown, and the kernel
/// reports such a failure once only: a second attempt that "succeeds" proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Latch(OnceLock<String>);

impl Latch {
    /// The first failure, if there was one.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Closes the latch for good.
    pub(crate) fn set(&self, cause: &dyn std::error::Error) {
        let mut text = cause.to_string();
        let mut source = cause.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        if self.0.set(text).is_ok() {
            // Whoever wrote gets the error itself.
            tracing::warn!(cause = self.cause(), "no more writes are accepted after this failure");
        }
    }
}
