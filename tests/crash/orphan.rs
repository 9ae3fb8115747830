//! The supervisor dies: the worker sees the end of its socket, unmounts and exits.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use selvedge_mountpoint::{MountIdentity, UnmountMode, unmount};
use selvedge_test_support::{Mounting, assert_gone, assert_inside, assert_no_mount, identity_of, wait_until};

use crate::WORKER;
use crate::scene::Scene;
use crate::stopped::{HANG, hang};

const SUPERVISE: &str = "SELVEDGE_TEST_SUPERVISE";
const READY: &str = "worker is ready: ";

/// Not a test: the process that the tests below kill, which is this program run again.
#[test]
fn supervise_when_asked_to() {
    let Some(dir) = std::env::var_os(SUPERVISE) else { return };
    let dir = Path::new(&dir);
    let mount = Mounting::new(WORKER, &dir.join("repo"), &dir.join("mnt")).start();
    println!("{READY}{}", mount.pid());
    std::thread::sleep(Duration::from_mins(3));
}

/// A supervisor in a process of its own.
struct Supervisor {
    process: Child,
    worker: Pid,
    mount: Option<MountIdentity>,
}

impl Supervisor {
    fn start(scene: &Scene, env: Option<(&str, &str)>) -> Self {
        // The worker is inherited when its supervisor dies; without this nobody here could tell how it ended.
        set_child_subreaper(Some(getpid())).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["orphan::supervise_when_asked_to", "--exact", "--nocapture"])
            .env(SUPERVISE, scene.repo.dir())
            .envs(env)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).find_map(|line| {
            // The test harness may have written something before it on the same line.
            line.split_once(READY).map(|(_, pid)| pid.trim().parse::<i32>().unwrap())
        });
        let worker = Pid::from_raw(ready.expect("a supervisor that says when it is ready")).unwrap();
        assert_inside(&scene.repo.mountpoint());
        let mount = identity_of(&scene.repo.mountpoint());
        Self { process, worker, mount }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits for the end of the orphaned worker; tells its exit code.
    fn worker_exit(&self) -> Option<i32> {
        let mut status = None;
        wait_until("the orphaned worker to end", Duration::from_secs(30), || {
            match waitpid(Some(self.worker), WaitOptions::NOHANG) {
                Ok(Some((_, exit))) => status = exit.exit_status(),
                // It becomes a child of this process only with its supervisor's death.
                Ok(None) | Err(rustix::io::Errno::CHILD) => {}
                Err(errno) => panic!("{errno}"),
            }
            status.is_some()
        });
        status
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(mount) = &self.mount {
            let _ = unmount(mount, UnmountMode::Force, std::time::Instant::now() + Duration::from_secs(5));
        }
    }
}

#[test]
fn an_orphaned_worker_unmounts_and_exits() {
    let mut scene = Scene::new(1);
    let known = scene.known.clone();
    let mut supervisor = Supervisor::start(&scene, None);
    supervisor.kill();
    assert_eq!(supervisor.worker_exit(), Some(0));
    assert_gone(supervisor.worker.as_raw_nonzero().get().try_into().unwrap());
    assert_no_mount(&scene.repo.mountpoint());
    scene.assert_kept(&known);
}

#[test]
fn an_orphaned_worker_ends_although_a_request_hangs() {
    let mut scene = Scene::new(1);
    let known = scene.known.clone();
    let mut supervisor = Supervisor::start(&scene, Some(HANG));
    let mut hanging = hang(&scene.repo.mountpoint());
    supervisor.kill();
    assert_eq!(supervisor.worker_exit(), Some(0));
    assert!(!hanging.wait().unwrap().success());
    assert_no_mount(&scene.repo.mountpoint());
    scene.assert_kept(&known);
}

#[test]
fn an_orphaned_worker_frees_the_writers_and_keeps_what_it_acknowledged() {
    let mut scene = Scene::new(4);
    let mut supervisor = Supervisor::start(&scene, None);
    let writers = scene.writers(&scene.repo.mountpoint(), 5);
    writers.wait_for(300);
    supervisor.kill();
    let known = writers.ended();
    assert_eq!(supervisor.worker_exit(), Some(0));
    assert_gone(supervisor.worker.as_raw_nonzero().get().try_into().unwrap());
    assert_no_mount(&scene.repo.mountpoint());
    scene.assert_kept(&known);
}
