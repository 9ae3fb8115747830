//! Programs that are copied to be run.

use std::path::Path;
use std::process::Command;

/// Copies a program, by another process: a child that another thread starts meanwhile would have this process's
/// descriptor for writing until it executes, and a program that is open for writing cannot be executed.
///
/// # Panics
/// When it cannot be copied.
#[track_caller]
pub fn copy_program(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success(), "cp {from} {}", to.display());
}
