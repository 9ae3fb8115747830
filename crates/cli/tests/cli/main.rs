//! The command line's contract, with the built programs: names, outputs, exit codes, and what is left behind.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod adoption;
mod bad_input;
mod contract;
mod damage;
mod doctor;
mod faults;
mod fsck;
mod full_disk;
mod gc;
mod hanging;
mod history;
mod hygiene;
mod impostors;
mod logs;
mod lost;
mod mounts;
mod races;
mod run;
mod sandbox;
mod service;
mod service_crash;
mod settings;
mod snapshots;
mod strangers;
mod tour;
mod unit;
mod unprivileged;
mod upgrade;
