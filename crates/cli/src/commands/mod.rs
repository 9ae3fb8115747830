//! The commands, one to a file: its arguments and its `run`.

pub mod bind;
pub mod completions;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod export;
pub mod fsck;
pub mod gc;
pub mod import;
pub mod init;
pub mod list;
pub mod log;
pub mod mount;
pub mod run;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod thread;
pub mod unmount;
