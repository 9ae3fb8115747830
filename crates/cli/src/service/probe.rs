//! Whether the service is there.

use std::time::{Duration, Instant};

use crate::control::Client;
use crate::control::client::ConnectError;
use crate::error::CliError;
use crate::runtime::RuntimeDir;

/// How long the service may take to greet before it counts as busy.
const ANSWER: Duration = Duration::from_millis(100);

/// What is there.
#[derive(Debug)]
pub enum Probe {
    /// The service, connected and greeted.
    Running(Box<Client>),
    /// Something that listens and does not answer in time: the service, busy or hung.
    Silent(CliError),
    /// A service of another version.
    Version(CliError),
    /// No service: nobody listens, or somebody who does not speak our protocol.
    Down,
}

/// Looks for the service, starting none.
pub fn probe(runtime: &RuntimeDir) -> Probe {
    match Client::service(runtime, Instant::now() + ANSWER) {
        Ok(client) => Probe::Running(Box::new(client)),
        Err(ConnectError::Silent(error)) => Probe::Silent(error),
        Err(ConnectError::Version(error)) => Probe::Version(error),
        Err(ConnectError::Gone | ConnectError::Foreign(_)) => Probe::Down,
    }
}
