//! Descriptors: counted for the whole process, so this is the only test of its program.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::collections::BTreeSet;
use std::time::Duration;

use selvedge_supervisor::{SpawnError, SpawnSpec, Supervisor, WorkerProgram};

fn descriptors() -> BTreeSet<(String, String)> {
    let list = std::fs::read_dir("/proc/self/fd").unwrap();
    list.filter_map(|entry| {
        let entry = entry.unwrap();
        // The listing's own descriptor is closed by now.
        let target = std::fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().into_string().unwrap(), target.to_string_lossy().into_owned()))
    })
    .collect()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn fail(program: &str, args: &[&str]) -> SpawnError {
    let mut spec = SpawnSpec::new(WorkerProgram::Path(program.into()), "/nowhere".into());
    spec.args = args.iter().map(Into::into).collect();
    spec.handshake_deadline = Duration::from_secs(10);
    Supervisor::spawn(&spec).unwrap_err()
}

#[test]
fn a_thousand_failed_spawns_leave_no_descriptor() {
    let _ = fail("/bin/true", &[]);
    let before = (descriptors(), threads());
    for round in 0..250 {
        let error = fail("/bin/true", &[]);
        assert!(matches!(error, SpawnError::Died { .. }), "round {round}: {error}");
        let error = fail("/no/such/program", &[]);
        assert!(matches!(error, SpawnError::Missing { .. }), "round {round}: {error}");
        let error = fail("/etc/passwd", &[]);
        assert!(matches!(error, SpawnError::NotExecutable { .. }), "round {round}: {error}");
        let error = fail("/bin/sh", &["-c", "printf '\\001\\000\\000\\000x' >&0; exec sleep 60"]);
        assert!(matches!(error, SpawnError::Nonsense { .. }), "round {round}: {error}");
    }
    assert_eq!((descriptors(), threads()), before);
}
