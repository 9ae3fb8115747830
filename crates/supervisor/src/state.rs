//! Where a mount is in its life.

use crate::ExitReport;

/// Where a mount is in its life.
///
/// A mount that recovers goes from [`Ready`](Self::Ready) to [`Recovering`](Self::Recovering) and back any number of
/// times; one that could not be stopped is ready again. The rest is the order of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A worker serves it.
    Ready,
    /// Its worker died, and the next one does not serve yet. Whoever uses the mount waits.
    Recovering,
    /// Its worker has been asked to end.
    Stopping,
    /// The last worker is dead and reaped; the mount is being taken down.
    TakingDown,
    /// The last worker is gone, and so is the mount, unless the report says otherwise.
    Exited(ExitReport),
}
