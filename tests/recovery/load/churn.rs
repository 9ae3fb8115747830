//! Random changes of names, contents and attributes, compared with a model of the directory.

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::Load;
use crate::model::Model;
use crate::operation::Operation;

/// How many changes until the directory is compared with what it should be.
const ROUND: usize = 300;

pub(crate) fn run(load: &mut Load<'_>) {
    let name = format!("w{}", load.number);
    let mut model = Model::scan(&load.dir.join(&name));
    while load.goes_on() {
        change(load, &name, &mut model, ROUND);
    }
}

/// So many changes.
pub(crate) fn some(load: &Load<'_>, count: usize) {
    let mut load = Load { random: load.random.clone(), ..*load };
    let mut model = Model::scan(&load.dir.join("w0"));
    change(&mut load, "w0", &mut model, count);
}

fn change(load: &mut Load<'_>, name: &str, model: &mut Model, count: usize) {
    let path = load.dir.join(name);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
    for _ in 0..count {
        if !load.goes_on() {
            break;
        }
        let mut operation = Operation::choose(&mut load.random, model);
        loop {
            match operation.perform(&directory) {
                Ok(None) => break operation.apply(model),
                // Signals and full pages may cut a write short; what is left out is written next.
                Ok(Some(rest)) => {
                    operation.without(&rest).apply(model);
                    operation = rest;
                }
                Err(errno) => panic!("{operation:?} in {name} got {errno}"),
            }
        }
    }
    compare(&path, model);
}

fn compare(path: &Path, model: &Model) {
    let (expected, found) = (model.canonical(), Model::scan(path).canonical());
    for name in expected.names.keys().chain(found.names.keys()) {
        assert_eq!(found.get(name), expected.get(name), "{name} in {}", path.display());
    }
    assert_eq!(found, expected, "{}", path.display());
}
