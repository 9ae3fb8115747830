//! From a record to a mount that is ready, and away again.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use selvedge_mountpoint::covering_mount;
use selvedge_supervisor::{SpawnSpec, State, Supervisor};

use crate::error::{CliError, Result};
use crate::hosted::Hosted;
use crate::process::ProcessId;
use crate::record::{MountRecord, Record};
use crate::runtime::RuntimeDir;
use crate::ui::show;

/// Makes the directory if need be, and the mount of `record`, which has been written; writes down what there is to
/// clean up before and after.
pub(crate) fn make(
    runtime: &RuntimeDir,
    record: &Record,
    spec: &SpawnSpec,
    leftovers: &mut Leftovers,
) -> Result<Arc<Hosted>> {
    let tried = || format!("cannot mount thread {} on {}", record.thread, show(record.mountpoint.as_path()));
    // After the record, so that whoever cleans up after this process knows of the directory.
    if record.made_directory
        && let Err(error) = std::fs::create_dir(record.mountpoint.as_path())
    {
        // Somebody else's, if it is there now.
        leftovers.record.made_directory = false;
        return Err(CliError::io("cannot make the directory", &error).context(tried()));
    }
    let mut told = Ok(());
    let supervisor = Supervisor::spawn_telling(spec, &mut |pid| {
        told = Record { worker: ProcessId::of(pid), ..record.clone() }.write(runtime);
    })
    .map_err(|error| CliError::from(error).context(tried()))?;
    told?;
    let mount = MountRecord::new(supervisor.ready(), serving(&supervisor)?);
    let record = Record { mount: Some(mount.clone()), ..record.clone() };
    record.write(runtime)?;
    leftovers.record = record.clone();
    prove(&record).map_err(|error| error.context(tried()))?;
    Ok(Arc::new(Hosted::new(record, mount, supervisor)))
}

/// The process that serves the mount: the worker, or its successor if that has died meanwhile.
fn serving(supervisor: &Supervisor) -> Result<ProcessId> {
    loop {
        let pid = supervisor.pid();
        match (ProcessId::of(pid), supervisor.state()) {
            (Some(worker), _) => return Ok(worker),
            (None, State::Exited(_)) => {
                let ended = CliError::failed(format!("worker {pid} ended as soon as it was ready"));
                return Err(ended.hint("mount the thread again: every change made is kept"));
            }
            // It ends in one of the two: the supervisor's deadlines see to that.
            (None, _) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Whoever goes to the directory arrives in the mount: the worker's word is not enough, since another mount may have
/// come to lie over it.
fn prove(record: &Record) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = rustix::fs::open(record.mountpoint.as_path(), flags, Mode::empty()).and_then(covering_mount);
    let there = there.map_err(|errno| CliError::io("cannot look at the directory", &errno.into()))?;
    if record.identity().is_some_and(|identity| identity.device == there.device) {
        Ok(())
    } else {
        Err(CliError::conflict("another mount has come to lie over it")
            .hint("see what is mounted there (findmnt), and mount again when it is gone"))
    }
}

/// What a mount leaves in the runtime directory and on its directory, removed on every way out.
pub(crate) struct Leftovers {
    runtime: Arc<RuntimeDir>,
    /// What to remove.
    pub(crate) record: Record,
    armed: bool,
}

impl Leftovers {
    /// What there will be of `record`'s mount.
    pub(crate) fn of(runtime: &Arc<RuntimeDir>, record: Record) -> Self {
        Self { runtime: Arc::clone(runtime), record, armed: true }
    }

    /// Removes it, unless the mount is still there: then it is needed to clean up later.
    pub(crate) fn remove(&mut self) {
        if std::mem::take(&mut self.armed) && !self.record.is_mounted() {
            self.record.remove_directory();
            if let Err(error) = self.record.remove(&self.runtime) {
                tracing::warn!("{error}");
            }
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        self.remove();
    }
}
