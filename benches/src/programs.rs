//! The programs that are measured.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A program of this build: beside this one, or one directory up from a benchmark or test.
pub fn built(name: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    let places = this.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    places.into_iter().find(|path: &PathBuf| Path::is_file(path)).with_context(|| {
        format!("{name} is not built: run `cargo build -p selvedge`, with --release for the benchmark")
    })
}

/// Runs a program to its end, which must be a good one, and gives back what it printed.
pub fn run(program: &mut Command) -> Result<String> {
    let output = program.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program:?} failed: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The memory that a process has resident, in KiB.
pub fn resident(process: u32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).context("no VmRSS")
}
