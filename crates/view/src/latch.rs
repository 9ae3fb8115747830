//! Refuses everything after the first failed durable write.

use crate::error::{Result, ViewError};
use std::sync::OnceLock;

/// Set by the first failed fsync or checkpoint and never reset: what the disk holds is unknown from then on.
/// The kernel reports a lost page once, and `SQLite` itself would accept the next commit.
#[derive(Debug, Default)]
pub(crate) struct Latch {
    cause: OnceLock<String>,
}

impl Latch {
    /// Refuses when it is set.
    pub(crate) fn check(&self) -> Result<()> {
        match self.cause.get() {
            None => Ok(()),
            Some(cause) => Err(ViewError::Latched(cause.clone())),
        }
    }

    /// Passes `result` on and sets the latch if it is a failure.
    pub(crate) fn guard<T>(&self, what: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let cause = format!("{what}: {error}");
            if self.cause.set(cause.clone()).is_ok() {
                tracing::error!(%cause, "a durable write failed; the thread takes no more changes");
            }
            ViewError::Latched(cause)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_one_that_stays() {
        let latch = Latch::default();
        assert!(latch.check().is_ok());
        assert!(latch.guard("fsync", Err::<(), _>(ViewError::BadHandle)).is_err());
        assert!(latch.guard("fsync", Err::<(), _>(ViewError::NotFound)).is_err());
        assert!(matches!(latch.check(), Err(ViewError::Latched(cause)) if cause == "fsync: bad handle"));
    }
}
