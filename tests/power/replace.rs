//! A file that is replaced by renaming another over it: after a cut it is one of the two, whole.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::seed::Seed;
use crate::writer::{Ledger, Shared, Writer};

#[derive(Debug)]
pub(crate) struct Replace {
    name: &'static str,
    seed: u64,
}

fn content(version: u64) -> Vec<u8> {
    let mut content = version.to_le_bytes().to_vec();
    let length = 3000 + usize::try_from(version * 7919 % 60_000).unwrap();
    content.extend(Seed::new(version + 1).bytes(length));
    content
}

impl Replace {
    pub(crate) const fn new(name: &'static str, seed: u64) -> Self {
        Self { name, seed }
    }
}

impl Writer for Replace {
    fn furnish(&self, root: &Path) {
        fs::create_dir(root.join(self.name)).unwrap();
        fs::write(root.join(self.name).join("file"), content(0)).unwrap();
    }

    fn write(&self, root: &Path, ledger: &Shared) {
        let directory = root.join(self.name);
        let mut seed = Seed::new(self.seed);
        for version in 1.. {
            if !ledger.goes_on() {
                return;
            }
            ledger.begin(version);
            let new = directory.join("new");
            let mut file = File::create(&new).unwrap();
            file.write_all(&content(version)).unwrap();
            // As programs do it that want to be safe, and as most do.
            let careful = seed.below(5) == 0;
            if careful {
                file.sync_all().unwrap();
            }
            drop(file);
            fs::rename(&new, directory.join("file")).unwrap();
            if careful {
                File::open(&directory).unwrap().sync_all().unwrap();
                ledger.durable(version);
            }
        }
    }

    fn faults(&self, root: &Path, least: &Ledger, most: &Ledger) -> Vec<String> {
        let Ok(found) = fs::read(root.join(self.name).join("file")) else {
            return vec![format!("{}: the replaced file is gone", self.name)];
        };
        let version = found.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        match version.filter(|version| (least.durable..=most.begun).contains(version)) {
            None => vec![format!(
                "{}: version {version:?}, {} bytes, is none from {} to {}",
                self.name,
                found.len(),
                least.durable,
                most.begun
            )],
            Some(version) if found != content(version) => {
                vec![format!("{}: version {version} is not whole", self.name)]
            }
            Some(_) => Vec::new(),
        }
    }
}
