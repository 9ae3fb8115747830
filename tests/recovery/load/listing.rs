//! Directories are listed slowly while names come and go: what is there all the time comes exactly once.

use std::collections::BTreeSet;
use std::fs::{self, File};

use rustix::fs::{Dir, Mode, OFlags};

use super::Load;

pub(crate) fn run(load: &mut Load<'_>) {
    let path = load.dir.join("many");
    while load.goes_on() {
        let directory = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut listing = Dir::new(directory).unwrap();
        let mut found = BTreeSet::new();
        let mut round = 0;
        while let Some(entry) = listing.read() {
            let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
            assert!(found.insert(name.clone()), "{name} comes twice");
            round += 1;
            if round % 50 == 0 {
                let guest = path.join(format!("guest{}", load.random.below(5)));
                drop(File::create(&guest).unwrap());
                fs::remove_file(&guest).unwrap();
                load.goes_on();
            }
        }
        for number in 0..500 {
            assert!(found.contains(&number.to_string()), "{number} is missing");
        }
    }
}
