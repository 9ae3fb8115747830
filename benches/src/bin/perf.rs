//! Selvedge beside the host's directory and its peers, in one run on a fresh file system: `perf --help`.

use anyhow::Result;
use clap::Parser;
use selvedge_bench::perf::{Options, run};

fn main() -> Result<()> {
    run(&Options::parse())
}
