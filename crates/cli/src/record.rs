//! What is written down about a running mount, so that other commands find it and can clean up after it.

use std::io::{Read, Write};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use selvedge_mountpoint::{Device, MountIdentity};
use selvedge_worker_proto::{MountReady, Passthrough, WirePath};
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Result};
use crate::plan::{OnCrash, Plan};
use crate::process::ProcessId;
use crate::runtime::RuntimeDir;
use crate::ui::show;

/// The version of the records. Records of another version are another program's business.
pub(crate) const VERSION: u32 = 1;

/// The longest record read, in bytes: two paths of the longest kind, in base64, and then some.
const MAX_RECORD: u64 = 64 * 1024;

/// A mount that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The records' version.
    pub version: u32,
    /// Names the mount in the runtime directory and on control sockets.
    pub id: MountId,
    /// The directory that holds `.selvedge`.
    pub repo: WirePath,
    /// The thread's name when it was mounted.
    pub thread: String,
    /// The thread's identity, in hexadecimal.
    pub thread_id: String,
    /// The mounted directory, absolute and without symbolic links.
    pub mountpoint: WirePath,
    /// Whether the directory is made for this mount, after this record, and goes with it if empty.
    pub made_directory: bool,
    /// The process that answers for the mount.
    pub supervisor: ProcessId,
    /// The worker, from its start on: it may have made a mount that is not written down yet, or be about to follow the one
    /// that serves it.
    #[serde(default)]
    pub worker: Option<ProcessId>,
    /// What kind of process that is, and with it which socket reaches it.
    #[serde(default)]
    pub holder: Holder,
    /// The request that the service made the mount for: it names the mount among those that are wanted.
    #[serde(default)]
    pub request: Option<MountId>,
    /// What the service makes the mount from, for a service that adopts its worker.
    #[serde(default)]
    pub plan: Option<Box<Plan>>,
    /// How many workers were replaced.
    #[serde(default)]
    pub restarts: u32,
    /// How the last of those ended, for people.
    #[serde(default)]
    pub last_cause: Option<String>,
    /// The mount itself, once it is there.
    pub mount: Option<MountRecord>,
}

/// What kind of process answers for a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// `mount --foreground`, for this mount alone.
    #[default]
    Foreground,
    /// The service, for many.
    Service,
}

/// The kernel's mount and the worker behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The worker.
    pub worker: ProcessId,
    /// The mount's number in the mount table.
    pub mount_id: u64,
    /// The mount's number that is never used again.
    pub unique_mount_id: Option<u64>,
    /// Major and minor number of the mounted file system.
    pub device: (u32, u32),
    /// When it came up: milliseconds since boot, time asleep included.
    pub since_ms: u64,
    /// Whether the kernel reads and writes files past the worker.
    pub passthrough: Passthrough,
    /// Whether the kernel holds back what programs write.
    #[serde(default)]
    pub writeback: bool,
}

/// A mount's name: 16 hexadecimal digits, made at random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct MountId(String);

impl MountId {
    /// A new name.
    pub fn random() -> Result<Self> {
        let mut bytes = [0u8; 8];
        let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| CliError::io("cannot make a random number", &errno.into()))?;
        if count < bytes.len() {
            return Err(CliError::failed("cannot make a random number: too few bytes came").hint("try again"));
        }
        Ok(Self(format!("{:016x}", u64::from_le_bytes(bytes))))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the mount's control socket in the runtime directory.
    pub fn socket_name(&self) -> String {
        format!("{}.sock", self.0)
    }

    fn record_name(&self) -> String {
        format!("{}.json", self.0)
    }
}

/// Names become parts of paths, so nothing but digits gets in.
impl TryFrom<String> for MountId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} is no mount id"))
        }
    }
}

impl std::fmt::Display for MountId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl MountRecord {
    /// What a worker's first answer says, from now on; `worker` is the one that serves now.
    pub fn new(ready: &MountReady, worker: ProcessId) -> Self {
        Self {
            worker,
            mount_id: ready.mount_id,
            unique_mount_id: ready.unique_mount_id,
            device: (ready.device.major, ready.device.minor),
            since_ms: u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX),
            passthrough: ready.passthrough.clone(),
            writeback: ready.writeback,
        }
    }

    /// How long the mount has been there.
    pub fn uptime(&self) -> Duration {
        since_boot().saturating_sub(Duration::from_millis(self.since_ms))
    }
}

impl Record {
    /// The same with another worker, the `restarts`th, which follows one that ended by `last_cause`; `None` if it has ended
    /// already.
    pub fn with_worker(&self, pid: u32, restarts: u32, last_cause: Option<String>) -> Option<Self> {
        let worker = ProcessId::of(pid)?;
        let mount = self.mount.clone().map(|mount| MountRecord { worker, ..mount });
        Some(Self { mount, worker: Some(worker), restarts, last_cause, ..self.clone() })
    }

    /// A record of a mount that is about to be made by this process.
    pub fn new(
        repo: impl Into<WirePath>,
        thread: impl Into<String>,
        thread_id: impl Into<String>,
        mountpoint: impl Into<WirePath>,
        made_directory: bool,
    ) -> Result<Self> {
        let supervisor = ProcessId::own().ok_or_else(|| {
            CliError::failed("cannot read /proc/self/stat").hint("mount /proc: mount -t proc proc /proc")
        })?;
        Ok(Self {
            version: VERSION,
            id: MountId::random()?,
            repo: repo.into(),
            thread: thread.into(),
            thread_id: thread_id.into(),
            mountpoint: mountpoint.into(),
            made_directory,
            supervisor,
            worker: None,
            holder: Holder::Foreground,
            request: None,
            plan: None,
            restarts: 0,
            last_cause: None,
            mount: None,
        })
    }

    /// The worker that serves the mount, and the one that may have been started since.
    pub fn workers(&self) -> impl Iterator<Item = ProcessId> {
        let serving = self.mount.as_ref().map(|mount| mount.worker);
        serving.into_iter().chain(self.worker.filter(|worker| serving != Some(*worker)))
    }

    /// Whether a living worker serves the mount whose service is gone. It looks for another one by itself.
    pub fn is_orphaned(&self) -> bool {
        let is_adoptable = self.plan.as_ref().is_some_and(|plan| plan.options.on_crash == OnCrash::Recover);
        let is_served = || self.mount.is_some() && self.workers().any(ProcessId::runs);
        is_adoptable && !self.supervisor.runs() && is_served()
    }

    /// What tells the mount apart from any other, once it is there.
    pub fn identity(&self) -> Option<MountIdentity> {
        let mount = self.mount.as_ref()?;
        let (major, minor) = mount.device;
        Some(MountIdentity {
            mount_id: mount.mount_id,
            unique_id: mount.unique_mount_id,
            device: Device { major, minor },
            path: self.mountpoint.as_path().to_owned(),
        })
    }

    /// Whether the mount is in the mount table, and belongs to the caller: any user can make one that looks like
    /// ours, and the kernel gives a mount's number and device to the next one at once.
    pub fn is_mounted(&self) -> bool {
        let Some(identity) = self.identity() else { return false };
        let caller = rustix::process::geteuid().as_raw();
        let Ok(Some(entry)) = identity.find() else { return false };
        entry.is_selvedge() && entry.user_id() == Some(caller)
    }

    /// Writes the record, in one step, in place of what it was.
    pub fn write(&self, runtime: &RuntimeDir) -> Result<()> {
        let tried = || format!("cannot write a record in {}", show(runtime.path()));
        let io = |errno: Errno| CliError::io(tried(), &errno.into());
        let json = serde_json::to_vec(self).map_err(|error| {
            CliError::failed(format!("{}: {error}", tried())).hint("use paths that are shorter")
        })?;
        let temporary = self.temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(runtime.mounts(), &temporary, flags, Mode::RUSR | Mode::WUSR).map_err(io)?;
        let written = std::fs::File::from(file)
            .write_all(&json)
            .map_err(|error| CliError::io(tried(), &error))
            .and_then(|()| {
                renameat(runtime.mounts(), &temporary, runtime.mounts(), self.id.record_name()).map_err(io)
            });
        if written.is_err() {
            let _ = unlinkat(runtime.mounts(), &temporary, AtFlags::empty());
        }
        written
    }

    /// The name under which the record is being written. It names the writer, so that it is known whose it is.
    fn temporary_name(&self) -> String {
        format!("{}.{}.tmp", self.id, self.supervisor)
    }

    /// Removes what processes left that died while they wrote a record.
    pub fn sweep(runtime: &RuntimeDir) {
        let Ok(directory) = Dir::read_from(runtime.mounts()) else { return };
        for entry in directory.flatten() {
            let writer = entry.file_name().to_str().ok().and_then(writer_of);
            if writer.is_some_and(|writer| !writer.runs()) {
                let _ = unlinkat(runtime.mounts(), entry.file_name(), AtFlags::empty());
            }
        }
    }

    /// Removes the record and the mount's control socket. Nothing there is no error.
    pub fn remove(&self, runtime: &RuntimeDir) -> Result<()> {
        for name in [self.id.socket_name(), self.id.record_name()] {
            match unlinkat(runtime.mounts(), &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    let path = runtime.path().join("mounts").join(name);
                    return Err(CliError::io(format!("cannot remove {}", show(&path)), &errno.into()));
                }
            }
        }
        Ok(())
    }

    /// Removes the mounted directory if it was made for the mount and nothing is in it.
    pub fn remove_directory(&self) {
        if self.made_directory {
            // Not empty, or gone already: then it is the user's, and stays as it is.
            let _ = std::fs::remove_dir(self.mountpoint.as_path());
        }
    }

    /// All records, in the order of repository and thread. What cannot be read as a record is left alone.
    pub fn all(runtime: &RuntimeDir) -> Result<Vec<Self>> {
        let tried = || format!("cannot list the records in {}", show(runtime.path()));
        let directory =
            Dir::read_from(runtime.mounts()).map_err(|errno| CliError::io(tried(), &errno.into()))?;
        let mut records = Vec::new();
        for entry in directory {
            let entry = entry.map_err(|errno| CliError::io(tried(), &errno.into()))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.strip_suffix(".json").is_some()
                && let Some(record) = Self::read(runtime, name)
            {
                records.push(record);
            }
        }
        records.sort_by(|a, b| (&a.repo, &a.thread, &a.id).cmp(&(&b.repo, &b.thread, &b.id)));
        Ok(records)
    }

    fn read(runtime: &RuntimeDir, name: &str) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(runtime.mounts(), name, flags, Mode::empty()).ok()?;
        let mut json = Vec::new();
        std::fs::File::from(file).take(MAX_RECORD).read_to_end(&mut json).ok()?;
        let record: Self = serde_json::from_slice(&json)
            .inspect_err(|error| tracing::warn!("unreadable record {name}: {error}"))
            .ok()?;
        (record.version == VERSION && record.id.record_name() == name).then_some(record)
    }
}

/// The process that a record's temporary name names.
fn writer_of(name: &str) -> Option<ProcessId> {
    let (_, writer) = name.strip_suffix(".tmp")?.split_once('.')?;
    ProcessId::parse(writer)
}

/// Time since boot, time asleep included.
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    fn runtime(scratch: &tempfile::TempDir) -> RuntimeDir {
        let environment =
            Environment { runtime_dir: Some(scratch.path().join("run")), ..Environment::default() };
        RuntimeDir::open(&environment).unwrap()
    }

    #[test]
    fn a_record_is_found_again_until_it_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let runtime = runtime(&scratch);
        let record = Record::new("/r", "main", "00", "/m", true).unwrap();
        record.write(&runtime).unwrap();
        assert_eq!(Record::all(&runtime).unwrap(), std::slice::from_ref(&record));
        record.remove(&runtime).unwrap();
        record.remove(&runtime).unwrap();
        assert_eq!(Record::all(&runtime).unwrap(), []);
    }

    #[test]
    fn what_is_no_record_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let runtime = runtime(&scratch);
        let mounts = runtime.path().join("mounts");
        std::fs::write(mounts.join("0123456789abcdef.json"), "{").unwrap();
        std::fs::write(mounts.join("x.json"), "[]").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            mounts.join("f.json"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        assert_eq!(Record::all(&runtime).unwrap(), []);
        assert!(mounts.join("x.json").exists());
    }

    #[test]
    fn what_a_dead_writer_left_is_swept_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let runtime = runtime(&scratch);
        let living = Record::new("/r", "main", "00", "/m", true).unwrap();
        let dead = ProcessId { start: living.supervisor.start + 1, ..living.supervisor };
        let dead = Record { supervisor: dead, ..living.clone() };
        let mounts = runtime.path().join("mounts");
        for name in [living.temporary_name(), dead.temporary_name(), "x.tmp".to_owned()] {
            std::fs::write(mounts.join(name), "{").unwrap();
        }
        Record::sweep(&runtime);
        assert!(!mounts.join(dead.temporary_name()).exists());
        assert!(mounts.join(living.temporary_name()).exists() && mounts.join("x.tmp").exists());
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        for bad in ["", "../../etc/passwd", "0123456789ABCDEF", "0123456789abcdef0"] {
            assert!(MountId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
