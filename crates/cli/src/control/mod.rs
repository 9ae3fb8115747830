//! The control socket of processes that hold mounts.

pub mod client;
pub mod message;
pub mod server;

pub use client::Client;
pub use message::{MountDocument, MountState, Reply, Request};
pub use server::{Answer, Host, Server};
