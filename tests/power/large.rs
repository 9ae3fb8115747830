//! A large file of which a part is written again and again, until the thread has all of it: after a cut each page is one that
//! was written there, no older than what was synced, and the rest is as it was.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use crate::seed::Seed;
use crate::writer::{Ledger, Shared, Writer};

const PAGE: usize = 4096;

/// Pages of the file, and those that are written.
const PAGES: u64 = 16 * 256;
const WRITTEN: u64 = PAGES / 4;

/// Steps after which the file is left alone for a while: so many requests are worth a copy of it.
const MUCH: u64 = 2600;

#[derive(Debug)]
pub(crate) struct Large {
    name: &'static str,
    seed: u64,
}

impl Large {
    pub(crate) const fn new(name: &'static str, seed: u64) -> Self {
        Self { name, seed }
    }

    /// Writes it until a copy is worth while, and has it synced but for the last few writes.
    pub(crate) fn use_much(&self, root: &Path) -> Ledger {
        let file = OpenOptions::new().write(true).open(root.join(self.name)).unwrap();
        let write = |step| file.write_all_at(&filled(step), page_of(step) * PAGE as u64).unwrap();
        (1..=MUCH).for_each(write);
        file.sync_data().unwrap();
        let begun = MUCH + 50;
        (MUCH + 1..=begun).for_each(write);
        Ledger { durable: MUCH, begun }
    }
}

/// The page that a step writes: all are written before any is again.
const fn page_of(step: u64) -> u64 {
    step * 389 % WRITTEN
}

/// What the import has in a page, which no step writes.
const fn original(page: u64) -> u64 {
    page | 1 << 63
}

fn filled(word: u64) -> Vec<u8> {
    word.to_le_bytes().repeat(PAGE / 8)
}

impl Writer for Large {
    fn furnish(&self, root: &Path) {
        let file = File::create_new(root.join(self.name)).unwrap();
        (0..PAGES).for_each(|page| file.write_all_at(&filled(original(page)), page * PAGE as u64).unwrap());
    }

    fn write(&self, root: &Path, ledger: &Shared) {
        let mut seed = Seed::new(self.seed);
        let path = root.join(self.name);
        let open = || OpenOptions::new().write(true).open(&path).unwrap();
        let mut file = Some(open());
        for step in 1.. {
            if !ledger.goes_on() {
                return;
            }
            ledger.begin(step);
            let used = file.get_or_insert_with(open);
            used.write_all_at(&filled(step), page_of(step) * PAGE as u64).unwrap();
            if seed.below(1500) == 0 {
                used.sync_data().unwrap();
                ledger.durable(step);
            }
            // Whoever is about to make it whole meets no writer then, or one that opens it now and then.
            let rest = step % MUCH;
            if rest < 12 && step > MUCH {
                file = None;
                std::thread::sleep(Duration::from_millis(50 + seed.below(60)));
            }
        }
    }

    fn faults(&self, root: &Path, least: &Ledger, most: &Ledger) -> Vec<String> {
        let found = fs::read(root.join(self.name)).unwrap_or_default();
        let mut oldest: Vec<u64> = (0..PAGES).map(original).collect();
        for step in 1..=least.durable {
            oldest[usize::try_from(page_of(step)).unwrap()] = step;
        }
        let mut faults = Vec::new();
        if found.len() as u64 != PAGES * PAGE as u64 {
            faults.push(format!("{}: {} bytes", self.name, found.len()));
        }
        for ((page, bytes), oldest) in (0..).zip(found.chunks(PAGE)).zip(oldest) {
            let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let is_later = (oldest == original(page) || word > oldest)
                && word >= 1
                && word <= most.begun
                && page < WRITTEN
                && page_of(word) == page;
            if bytes != filled(word) || (word != oldest && !is_later) {
                let at = (least.durable, most.begun);
                faults.push(format!("{}: page {page} has {word:#x}, not {oldest:#x} ({at:?})", self.name));
            }
        }
        faults
    }
}
