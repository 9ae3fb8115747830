//! Fails when a `Status` round trip to a live worker takes longer than it may, in the median.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use selvedge_bench::{Figures, Live, Placement};

/// What the median may be.
const LIMIT: Duration = Duration::from_millis(1);
/// Round trips for each figure.
const COUNT: usize = 5000;
/// How long a supervised worker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<ExitCode> {
    let live = Live::new()?;
    let mut slow = false;
    for placement in Placement::ALL {
        let wire = placement.run(|| {
            let mut worker = live.wire()?;
            Figures::measure(COUNT, || worker.status())
        })??;
        let supervised = placement.run(|| {
            let worker = live.supervised()?;
            Figures::measure(COUNT, || worker.status(PATIENCE).map(drop)).map_err(anyhow::Error::from)
        })??;
        for (what, figures) in [("socket", wire), ("supervisor", supervised)] {
            let verdict = if figures.median > LIMIT { "  TOO SLOW" } else { "" };
            println!("Status over {what:<10}  {:<9}  {figures}{verdict}", placement.name());
            slow |= figures.median > LIMIT;
        }
    }
    Ok(if slow { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
