//! A repository, writers in its mount, and what must hold after a death.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use selvedge_supervisor::{CallError, ExitReport, ExitStatus, State};
use selvedge_test_support::{Mounted, Mounting, Repo, assert_gone, assert_no_mount};

use crate::WORKER;
use crate::model::Model;
use crate::random::Random;
use crate::writer::{Knowledge, Writers};

/// How long a death may take to be seen and cleaned up.
const SOON: Duration = Duration::from_secs(30);

/// A repository whose thread has a directory for each writer, and what each knows of its own.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) repo: Repo,
    pub(crate) known: Vec<Knowledge>,
}

impl Scene {
    /// A scene for so many writers.
    pub(crate) fn new(writers: usize) -> Self {
        let repo = Repo::with_tree(|source| (0..writers).for_each(|writer| fill(source, writer)));
        let known = (0..writers).map(|writer| Model::scan(&repo.source().join(format!("w{writer}"))));
        let known = known.map(Knowledge::of).collect();
        Self { repo, known }
    }

    /// The mount of the thread, to be started.
    pub(crate) fn mounting(&self) -> Mounting {
        self.repo.mounting(WORKER)
    }

    /// Starts the writers in a mount.
    pub(crate) fn writers(&self, mount: &Path, seed: u64) -> Writers {
        Writers::start(mount, self.known.clone(), seed)
    }

    /// Waits for the death of the worker, and fails unless it is the one expected and nothing is left of it.
    #[track_caller]
    pub(crate) fn assert_death(mount: &Mounted, expected: ExitStatus) -> ExitReport {
        let path = mount.path().to_owned();
        let exit = mount.wait(Some(Instant::now() + SOON)).expect("the worker is dead");
        assert_eq!(exit.status, expected, "{exit:?}");
        assert!(exit.mount_left, "{exit:?}");
        assert_eq!(exit.mount_stuck, None);
        assert_gone(exit.pid);
        assert_no_mount(&path);
        // The supervisor lives and answers.
        assert_eq!(mount.state(), State::Exited(exit.clone()));
        assert!(matches!(mount.status(Duration::from_secs(1)), Err(CallError::Ended)));
        exit
    }

    /// Mounts anew and fails unless every acknowledged change is there.
    #[track_caller]
    pub(crate) fn assert_kept(&mut self, known: &[Knowledge]) {
        let mount = self.mounting().start();
        let check = |(writer, known): (usize, &Knowledge)| {
            let name = format!("w{writer}");
            known.check(&Model::scan(&mount.path().join(&name)), &name)
        };
        self.known = known.iter().enumerate().map(check).collect();
        mount.stop();
    }
}

/// Something to change for one writer.
fn fill(source: &Path, writer: usize) {
    let mut random = Random::new(1000 + writer as u64);
    let directory = source.join(format!("w{writer}"));
    fs::create_dir_all(directory.join("sub")).unwrap();
    for name in ["f0", "f1", "f2", "sub/f0", "sub/f3"] {
        let length = 1 + random.below(100_000);
        fs::write(directory.join(name), random.bytes(length)).unwrap();
    }
    fs::hard_link(directory.join("f1"), directory.join("sub/f5")).unwrap();
    std::os::unix::fs::symlink("f0", directory.join("l0")).unwrap();
}
