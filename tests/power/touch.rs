//! Files of the base that are changed in one place: after a cut each is the old one or the changed one, whole.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::seed::Seed;
use crate::writer::{Ledger, Shared, Writer};

const FILES: u64 = 400;
const LENGTH: usize = 90_000;
const MARK: usize = 64;

#[derive(Debug)]
pub(crate) struct Touch {
    name: &'static str,
    seed: u64,
}

fn base(number: u64) -> Vec<u8> {
    Seed::new(number).bytes(LENGTH)
}

fn place(number: u64) -> usize {
    usize::try_from(Seed::new(number ^ 0xffff).below((LENGTH - MARK) as u64)).unwrap()
}

fn mark(number: u64) -> Vec<u8> {
    Seed::new(number ^ 0xcdef).bytes(MARK)
}

impl Touch {
    pub(crate) const fn new(name: &'static str, seed: u64) -> Self {
        Self { name, seed }
    }
}

impl Writer for Touch {
    fn furnish(&self, root: &Path) {
        fs::create_dir(root.join(self.name)).unwrap();
        for number in 1..=FILES {
            fs::write(root.join(self.name).join(number.to_string()), base(number)).unwrap();
        }
    }

    fn write(&self, root: &Path, ledger: &Shared) {
        let mut seed = Seed::new(self.seed);
        for number in 1..=FILES {
            if !ledger.goes_on() {
                return;
            }
            ledger.begin(number);
            let path = root.join(self.name).join(number.to_string());
            let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
            file.write_all_at(&mark(number), place(number) as u64).unwrap();
            // Each file is its own; those before it are durable only if they were synced as well.
            if seed.below(2) == 0 {
                file.sync_all().unwrap();
                ledger.durable(number);
            }
            std::thread::sleep(std::time::Duration::from_millis(seed.below(25)));
        }
    }

    fn faults(&self, root: &Path, least: &Ledger, most: &Ledger) -> Vec<String> {
        let mut faults = Vec::new();
        for number in 1..=FILES {
            let found = fs::read(root.join(self.name).join(number.to_string())).unwrap();
            let before = base(number);
            let mut changed = before.clone();
            changed[place(number)..place(number) + MARK].copy_from_slice(&mark(number));
            let is_old = found == before;
            let fault = if number == least.durable {
                // The one that is known to have been synced.
                found != changed
            } else if number > most.begun {
                !is_old
            } else {
                // A mark may be there in part, as any write that was not synced.
                let (from, to) = (place(number), place(number) + MARK);
                let around =
                    found.len() == LENGTH && found[..from] == before[..from] && found[to..] == before[to..];
                let own = around && (from..to).all(|at| found[at] == before[at] || found[at] == changed[at]);
                !own
            };
            if fault {
                faults.push(format!(
                    "{}: file {number}, {} bytes, is neither old nor changed",
                    self.name,
                    found.len()
                ));
            }
        }
        faults
    }
}
