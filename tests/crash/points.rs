//! Every named point of a mutation's life, as the code lists them: the worker dies there, and nothing acknowledged
//! is lost.

use selvedge_supervisor::ExitStatus;
use selvedge_test_support::is_apart;

use crate::scene::Scene;

/// How many tests share the points, so that they run side by side.
const SHARES: usize = 4;

/// Points that the writers pass often die late enough for something to have happened before.
const PASSES: [(&str, u64); 6] = [
    ("commit.", 150),
    ("write.", 40),
    ("fuse.getattr", 1),
    // Asked once on each connection.
    ("fuse.flush", 1),
    ("fuse.opendir", 1),
    ("fuse.", 8),
];

fn passes(point: &str) -> u64 {
    PASSES.iter().find(|(prefix, _)| point.starts_with(prefix)).map_or(1, |(_, passes)| *passes)
}

/// Whether writers come by it while one worker serves.
fn is_for_writers(point: &str) -> bool {
    !is_apart(point) && !point.starts_with("resume.") && point != "commit.again"
}

fn walk(share: usize) {
    let points = selvedge_view::crash::POINTS.iter().chain(selvedge_mount::POINTS);
    for (index, point) in points.filter(|point| is_for_writers(point)).enumerate() {
        if index % SHARES == share {
            die_at(point, index as u64);
        }
    }
}

fn die_at(point: &str, seed: u64) {
    let mut scene = Scene::new(2);
    let armed = format!("{point}:{}", passes(point));
    // What is read and written past the worker passes few other points.
    let passthrough = if point.starts_with("backing.") { "on" } else { "off" };
    let mounting = scene.mounting().option("--passthrough").option(passthrough);
    let mount = mounting.env("SELVEDGE_FUSE_WORKER_CRASH_AT", &armed).start();
    let writers = scene.writers(mount.path(), seed);
    let known = writers.ended();
    Scene::assert_death(&mount, ExitStatus::Signaled { signal: libc::SIGABRT, core: false });
    drop(mount);
    scene.assert_kept(&known);
}

#[test]
fn nothing_is_lost_when_the_worker_dies_as_it_brings_the_log_into_its_file() {
    let scene = Scene::new(1);
    let mount = scene.mounting().env("SELVEDGE_FUSE_WORKER_CRASH_AT", "checkpoint.before").start();
    let directory = mount.path().join("w0");
    // More than the log takes between two checkpoints.
    let made: Vec<String> = (0..16_000)
        .map(|number| format!("many-{number}"))
        .take_while(|name| std::fs::create_dir(directory.join(name)).is_ok())
        .collect();
    Scene::assert_death(&mount, ExitStatus::Signaled { signal: libc::SIGABRT, core: false });
    drop(mount);
    assert!(made.len() > 500, "{} directories", made.len());
    let mount = scene.mounting().start();
    for name in made {
        assert!(mount.path().join("w0").join(&name).is_dir(), "{name} is lost");
    }
    mount.stop();
}

#[test]
fn nothing_acknowledged_is_lost_at_any_point_first_share() {
    walk(0);
}

#[test]
fn nothing_acknowledged_is_lost_at_any_point_second_share() {
    walk(1);
}

#[test]
fn nothing_acknowledged_is_lost_at_any_point_third_share() {
    walk(2);
}

#[test]
fn nothing_acknowledged_is_lost_at_any_point_fourth_share() {
    walk(3);
}
