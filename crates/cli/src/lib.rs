//! The `selvedge` command and what both of its programs share.

pub mod adoption;
pub mod app;
pub mod args;
pub mod changes;
pub mod commands;
pub mod context;
pub mod control;
pub mod environment;
pub mod error;
pub mod foreground;
pub mod formats;
pub mod hosted;
pub mod hygiene;
pub mod json_file;
mod lending;
pub mod logging;
pub mod making;
pub mod mounted;
mod namespace;
pub mod patch;
pub mod plan;
pub mod process;
pub mod record;
pub mod runtime;
pub mod service;
pub mod settings;
pub mod side;
pub mod sorting;
pub mod standing;
pub mod starting;
#[expect(
    unsafe_code,
    reason = "signal state, inherited descriptors and the environment have no safe interface"
)]
mod sys;
pub mod target;
pub mod textdiff;
pub mod ui;
pub mod wanted;
pub mod worker_program;
