//! The machine on which figures were taken.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::run;

/// How long others are watched.
const LOOK: Duration = Duration::from_secs(3);

/// How often, at the most, before something is measured all the same.
const LOOKS: usize = 10;

/// CPUs in use that are as good as none.
const QUIET: f64 = 0.1;

/// What figures depend on. No names and no paths.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_gib: u64,
    /// The file system that holds the image.
    pub(crate) disk: String,
    /// CPUs that others were using right before the start.
    pub(crate) busy: f64,
    pub(crate) programs: Vec<String>,
}

impl Machine {
    /// Looks at the machine; `dir` is where the image will lie.
    pub(crate) fn look(dir: &Path) -> Result<Self> {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let kib = value(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let disk = run(Command::new("stat").args(["-f", "-c", "%T"]).arg(dir))?;
        Ok(Self {
            kernel: format!("Linux {}", uname.release().to_string_lossy()),
            cpu: value(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism()?.get(),
            memory_gib: kib.unwrap_or(0).div_ceil(1 << 20),
            disk: format!("ext4 in a file on {}, on a loop device", disk.trim()),
            busy: busy_cpus()?,
            programs: programs(),
        })
    }

    /// Whether other work took so much of the machine that its figures are no one's.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy > 0.2
    }
}

/// Waits until what was done before, and the kernel goes on with, leaves the CPUs alone.
pub(crate) fn settle() -> Result<()> {
    for _ in 0..LOOKS {
        if busy_cpus()? <= QUIET {
            return Ok(());
        }
    }
    println!("  others go on using the CPUs");
    Ok(())
}

/// How many CPUs are in use while this process waits.
fn busy_cpus() -> Result<f64> {
    let idle = || -> Result<f64> {
        let stat = fs::read_to_string("/proc/stat")?;
        let all = stat.lines().next().unwrap_or_default();
        let ticks = all.split_ascii_whitespace().skip(1).map(|ticks| ticks.parse::<f64>().unwrap_or(0.0));
        // Idle, and waiting for a disk.
        Ok(ticks.skip(3).take(2).sum::<f64>() / 100.0)
    };
    let before = idle()?;
    std::thread::sleep(LOOK);
    let cpus = f64::from(u32::try_from(std::thread::available_parallelism()?.get())?);
    Ok((cpus - (idle()? - before) / LOOK.as_secs_f64()).max(0.0))
}

fn programs() -> Vec<String> {
    let asked = [
        ("bindfs", "--version"),
        ("fuse-overlayfs", "--version"),
        ("git", "--version"),
        ("rg", "--version"),
        ("cargo", "--version"),
        ("npm", "--version"),
    ];
    let version = |(program, word): (&str, &str)| {
        let said = run(Command::new(program).arg(word)).ok()?;
        let line = said.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?.trim();
        let line = line.split(" (").next().unwrap_or(line);
        Some(if line.contains(' ') { line.to_owned() } else { format!("{program} {line}") })
    };
    asked.into_iter().filter_map(version).collect()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cpu, cpus, memory_gib, disk, busy, programs } = self;
        write!(
            f,
            "{kernel}, {cpus} CPUs ({cpu}), {memory_gib} GiB, {disk}; others used {busy:.2} CPUs before the start; "
        )?;
        write!(f, "{}", programs.join(", "))
    }
}
