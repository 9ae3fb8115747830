//! Named points at which a test lets the service die or stand still: those of its supervisors, and its own.

use selvedge_supervisor::crash;
pub(crate) use selvedge_supervisor::crash::point;

use crate::error::{CliError, Result};

/// The variable that arms a point: `[stop@]NAME[:N]`.
const VARIABLE: &str = "SELVEDGE_SERVICE_CRASH_AT";

/// The service's own points: while it becomes another program, and while it adopts a worker; each in the order in which
/// they are passed.
pub const POINTS: &[&str] = &[
    "upgrade.held",
    "upgrade.executed",
    "upgrade.resumed",
    "adoption.asked",
    "adoption.admitted",
    "adoption.taken",
    "adoption.written",
];

/// Arms the point that the environment names, if it names one.
pub(crate) fn arm() -> Result<()> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => crash::arm(&text, POINTS).map_err(|error| {
            CliError::usage(format!("{VARIABLE}: {error}")).hint("unset it, or name a point that exists")
        }),
        _ => Ok(()),
    }
}
