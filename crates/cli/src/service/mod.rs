//! The service: the process in the background that holds the caller's mounts.
//!
//! There is one for each user, boot and mount namespace. [`start`] finds it or starts it, [`run()`] is the process
//! itself, [`host`] what it answers. Which process is the service is decided by a lock alone, never by a file or a
//! socket that lies there.

pub mod crash;
pub(crate) mod handover;
mod home;
mod host;
pub(crate) mod log;
mod probe;
mod remains;
mod run;
mod signals;
mod start;
mod sweep;
mod unit;
mod upgrade;

pub mod lock;

pub use handover::VERSION as HANDOVER_VERSION;
pub use probe::{Probe, probe};
pub use run::run;
pub use start::{connect, retrying};
pub use sweep::{settle, sweep};

/// The service's socket, in the directory of this boot and mount namespace.
pub const SOCKET: &str = "service.sock";

/// The file that the service holds locked for as long as it lives.
pub const SERVICE_LOCK: &str = "service.lock";

/// The file that whoever starts the service holds locked meanwhile.
pub const START_LOCK: &str = "start.lock";

/// The service's log.
pub const LOG: &str = "service.log";

/// The directory of the mounts' logs.
pub const LOGS: &str = "logs";
