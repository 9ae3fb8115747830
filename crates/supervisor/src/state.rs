//! Where a worker is in its life.

use crate::ExitReport;

/// Where a worker is in its life. The order is the order of life; no state comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its mount is up.
    Ready,
    /// It has been asked to end.
    Stopping,
    /// It is dead and reaped; its mount is being taken down.
    TakingDown,
    /// It is gone, and so is its mount, unless the report says otherwise.
    Exited(ExitReport),
}
