//! The commands, one to a file: its arguments and its `run`.

pub mod completions;
pub mod doctor;
pub mod export;
pub mod import;
pub mod init;
pub mod list;
pub mod mount;
pub mod service;
pub mod thread;
pub mod unmount;
