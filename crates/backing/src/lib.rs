//! Has the kernel know files of the host by numbers, under which a FUSE connection may pass them through.
//!
//! That takes `CAP_SYS_ADMIN`, because whoever opens such a file through the mount reads and writes it without being asked
//! for permissions again. A worker that has the capability does it by itself ([`Registrar::Kernel`]). For one that has
//! not, a program that has been given the capability does it ([`Registrar::Helper`]), for files alone that the worker's
//! user owns and has open for reading and writing, so that nobody gets at anything which they had not got already.
//! `docs/design/passthrough.md` holds the whole argument.

mod check;
mod client;
mod error;
pub mod helper;
mod installed;
mod message;
mod privilege;
mod registrar;
#[expect(unsafe_code, reason = "two ioctls that rustix does not know; argued there")]
mod sys;

pub use client::Helper;
pub use error::{BackingError, Refusal};
pub use installed::{Installed, NAME};
pub use registrar::Registrar;
