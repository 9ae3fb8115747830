//! A file that grows: after a cut it has at least what was synced, and nothing that was never written.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use crate::seed::Seed;
use crate::writer::{Ledger, Shared, Writer};

/// Bytes of a record.
const RECORD: usize = 700;

#[derive(Debug)]
pub(crate) struct Stream {
    name: &'static str,
    seed: u64,
}

fn record(number: u64) -> Vec<u8> {
    Seed::new(number).bytes(RECORD)
}

impl Stream {
    pub(crate) const fn new(name: &'static str, seed: u64) -> Self {
        Self { name, seed }
    }
}

impl Writer for Stream {
    fn furnish(&self, root: &Path) {
        fs::create_dir(root.join(self.name)).unwrap();
    }

    fn write(&self, root: &Path, ledger: &Shared) {
        let mut seed = Seed::new(self.seed);
        let path = root.join(self.name).join("log");
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        for number in 1.. {
            if !ledger.goes_on() {
                return;
            }
            ledger.begin(number);
            file.write_all(&record(number)).unwrap();
            if seed.below(30) == 0 {
                file.sync_data().unwrap();
                ledger.durable(number);
            }
        }
    }

    fn faults(&self, root: &Path, least: &Ledger, most: &Ledger) -> Vec<String> {
        let found = fs::read(root.join(self.name).join("log")).unwrap_or_default();
        let mut faults = Vec::new();
        if (found.len() as u64) < least.durable * RECORD as u64 {
            faults.push(format!("{}: {} bytes of {} synced records", self.name, found.len(), least.durable));
        }
        for (number, bytes) in (1..).zip(found.chunks(RECORD)) {
            let expected = record(number);
            let is_written = *bytes == expected[..bytes.len()];
            // What was not synced may be missing, which is zeros; records have none.
            let is_own =
                bytes.iter().zip(&expected).all(|(found, expected)| found == expected || *found == 0);
            if number > most.begun || !is_own || (number <= least.durable && !is_written) {
                faults.push(format!("{}: record {number} is not what was written there", self.name));
            }
        }
        faults
    }
}
