//! Names that come, go, move and change their mode: after a cut the directory is as it was after one of its steps.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::seed::Seed;
use crate::writer::{Ledger, Shared, Writer};

#[derive(Debug)]
pub(crate) struct Names {
    name: &'static str,
    seed: u64,
}

/// Names and modes; what a step does follows from its number and these alone.
type State = BTreeMap<String, u32>;

#[derive(Debug)]
enum Step {
    Create(String),
    Remove(String),
    Rename(String, String),
    Chmod(String, u32),
}

fn step(number: u64, state: &State) -> Step {
    let oldest = state.keys().next().cloned();
    let newest = state.keys().next_back().cloned();
    match (number % 7, oldest, newest) {
        (2 | 5, Some(oldest), _) if state.len() > 5 => Step::Remove(oldest),
        (3, _, Some(newest)) => Step::Chmod(newest, 0o600 + u32::try_from(number % 64).unwrap()),
        (6, Some(oldest), _) => Step::Rename(oldest, format!("m{number:08}")),
        _ => Step::Create(format!("f{number:08}")),
    }
}

fn apply(step: Step, state: &mut State) {
    match step {
        Step::Create(name) => drop(state.insert(name, 0o644)),
        Step::Remove(name) => drop(state.remove(&name)),
        Step::Rename(from, to) => {
            let mode = state.remove(&from).unwrap();
            state.insert(to, mode);
        }
        Step::Chmod(name, mode) => drop(state.insert(name, mode)),
    }
}

fn perform(directory: &Path, step: &Step) {
    let at = |name: &str| directory.join(name);
    match step {
        Step::Create(name) => {
            let file = OpenOptions::new().write(true).create_new(true).open(at(name)).unwrap();
            drop(file);
        }
        Step::Remove(name) => fs::remove_file(at(name)).unwrap(),
        Step::Rename(from, to) => fs::rename(at(from), at(to)).unwrap(),
        Step::Chmod(name, mode) => {
            fs::set_permissions(at(name), Permissions::from_mode(*mode)).unwrap();
        }
    }
}

impl Names {
    pub(crate) const fn new(name: &'static str, seed: u64) -> Self {
        Self { name, seed }
    }
}

impl Writer for Names {
    fn furnish(&self, root: &Path) {
        fs::create_dir(root.join(self.name)).unwrap();
    }

    fn write(&self, root: &Path, ledger: &Shared) {
        let directory = root.join(self.name);
        let (mut seed, mut state) = (Seed::new(self.seed), State::new());
        for number in 1.. {
            if !ledger.goes_on() {
                return;
            }
            let step = step(number, &state);
            ledger.begin(number);
            perform(&directory, &step);
            apply(step, &mut state);
            if seed.below(40) == 0 {
                File::open(&directory).unwrap().sync_all().unwrap();
                ledger.durable(number);
            }
        }
    }

    fn faults(&self, root: &Path, least: &Ledger, most: &Ledger) -> Vec<String> {
        let mut found = State::new();
        for entry in fs::read_dir(root.join(self.name)).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            found.insert(entry.file_name().into_string().unwrap(), mode);
        }
        let mut state = State::new();
        for number in 0..=most.begun {
            if number > 0 {
                apply(step(number, &state), &mut state);
            }
            if number >= least.durable && state == found {
                return Vec::new();
            }
        }
        vec![format!("{}: {found:?} was never its state from {} to {}", self.name, least.durable, most.begun)]
    }
}
