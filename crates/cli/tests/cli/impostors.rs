//! Processes that pretend to be a worker that wants to be adopted, or a service that adopts.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::Signal;
use selvedge_cli::control::message::Adoption;
use selvedge_cli::control::{Client, Request};
use selvedge_cli::environment::Environment;
use selvedge_cli::process::ProcessId;
use selvedge_cli::record::{MountId, Record};
use selvedge_cli::runtime::RuntimeDir;
use selvedge_worker_proto::{Device, MountReady, PROTOCOL_VERSION};
use serde_json::json;

use crate::adoption::{number, workers};
use crate::sandbox::{Sandbox, Stray, eventually, runs, signal};

fn runtime(sandbox: &Sandbox) -> RuntimeDir {
    let environment = Environment { runtime_dir: Some(sandbox.runtime()), ..Environment::default() };
    RuntimeDir::open(&environment).unwrap()
}

#[test]
fn nobody_is_adopted_in_the_place_of_a_mounts_worker() {
    let sandbox = Sandbox::new();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    let runtime = runtime(&sandbox);
    let record = Record::all(&runtime).unwrap().remove(0);
    let mount = record.mount.clone().unwrap();
    let ready = MountReady {
        protocol: PROTOCOL_VERSION,
        pid: worker,
        mount_path: record.mountpoint.clone(),
        mount_id: mount.mount_id,
        unique_mount_id: mount.unique_mount_id,
        device: Device { major: mount.device.0, minor: mount.device.1 },
        passthrough: mount.passthrough.clone(),
        writeback: false,
    };
    let own = ProcessId::own().unwrap();
    let another = |id: ProcessId| ProcessId { start: id.start + 1, ..id };
    let elsewhere = MountReady { mount_id: mount.mount_id + 1, ..ready.clone() };
    let pretended = [
        // This very process, the worker, and such as have their numbers.
        (record.id.clone(), own, &ready, "is not the worker"),
        (record.id.clone(), mount.worker, &ready, "is not the worker"),
        (record.id.clone(), another(own), &ready, "is not the worker"),
        (record.id.clone(), another(mount.worker), &ready, "is not the worker"),
        (record.id.clone(), mount.worker, &elsewhere, "nothing is known"),
        (MountId::random().unwrap(), own, &ready, "nothing is known"),
    ];
    for (mount, worker, ready, why) in pretended {
        let mut client = Client::service(&runtime, Instant::now() + Duration::from_secs(10)).unwrap();
        let adoption = Box::new(Adoption { mount, worker, ready: ready.clone(), last_id: 1 });
        let answer = client.ask(Request::Adopt { adoption }, &[], Instant::now() + Duration::from_secs(10));
        let said = format!("{:?}", answer.unwrap_err());
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(workers(&sandbox.json(["list"]), sandbox.service_pid()), [worker]);
    sandbox.run(["unmount", "main"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

/// Listens at its first argument as another user, and notes in its second what it hears.
const LISTENER: &str = "
import os, socket, sys
path, heard = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, 0o666)
note = open(heard, 'wb', 0)
os.setgid(65534)
os.setuid(65534)
listener.listen()
while True:
    client, _ = listener.accept()
    note.write(b'.' + client.recv(65536))
";

#[test]
fn a_worker_says_nothing_to_another_users_socket_in_the_place_of_a_service() {
    let sandbox = Sandbox::new();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    // Nobody starts a service meanwhile.
    let lock = File::open(sandbox.instance().join("start.lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let service = sandbox.service_pid();
    signal(service, Signal::STOP);
    let (socket, heard) = (sandbox.instance().join("service.sock"), sandbox.path("heard"));
    std::fs::remove_file(&socket).unwrap();
    let mut listener = Command::new("python3");
    listener.args(["-c", LISTENER]).arg(&socket).arg(&heard);
    let _listener = Stray::start(&mut listener);
    eventually("somebody listens", || heard.exists());
    signal(service, Signal::KILL);
    eventually("the service is dead", || !runs(service));
    eventually("the worker has tried", || std::fs::metadata(&heard).unwrap().len() > 0);
    std::thread::sleep(Duration::from_millis(200));
    let said = std::fs::read(&heard).unwrap();
    assert!(said.iter().all(|byte| *byte == b'.'), "{}", String::from_utf8_lossy(&said));
    drop(lock);
    eventually("it has found a service", || {
        let list = sandbox.json(["list"]);
        list[0]["state"] == json!("ready") && list[0]["worker_pid"] == json!(worker)
    });
    sandbox.run(["unmount", "main"]).ok();
}
