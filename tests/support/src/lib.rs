//! Repositories, mounts and checks for the tests that run real workers.
//!
//! Whatever a test does, nothing stays behind: a mount is ended when its value goes, a test that hangs in a mount
//! is freed by a watchdog, and a directory with a mount in it is not swept.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up fails there and then"
)]

mod check;
mod faulty_disk;
mod mounted;
mod points;
mod program;
mod repo;
mod wait;
mod watchdog;

pub use check::{assert_gone, assert_inside, assert_no_mount, identity_of, mount_of};
pub use faulty_disk::{Fault, FaultyDisk};
pub use mounted::{Mounted, Mounting};
pub use points::is_apart;
pub use program::copy_program;
pub use repo::{Repo, THREAD};
pub use wait::wait_until;
