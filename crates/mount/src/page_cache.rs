//! What programs wrote or stored through shared mappings, and the kernel has not written to us yet.
//!
//! Stores reach a worker only at msync(2), fsync(2), close or when the kernel sees fit, and so do all writes where the
//! kernel holds them back; until then a page that is full of data in the kernel may be a hole in the working file. So
//! whoever asks where a file's data is while it may be mapped has the kernel write its pages first, by invalidating them,
//! one after the other. Where writes are held back there are many: the whole mount is synced first (`syncfs`), which
//! sends large pieces, and the times of the files with them, and waits for no answer; the invalidation does.
//!
//! That is another process's work: this program again, with the connection as its standard input. The kernel waits
//! for our answers to its writes, and lets nothing interrupt that wait. A worker that waited so in a thread of its own
//! could not die, and so could not be replaced by one that answers.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fuser::INodeNo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use selvedge_mountpoint::{Device, MountIdentity, covering_mount};

/// The first argument of the program as the other process; the nodes follow.
const ROLE: &str = "--write-back";

/// The argument before the device number and the directory of a mount that is to be synced.
const SYNC: &str = "--sync";

/// How long a caller waits for the kernel to write a file's pages. When every dispatch thread is in this wait nobody
/// answers until it is over.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long a caller waits at most for a mount to be synced: longer, since that is one answer for all of its files.
const SYNC_DEADLINE: Duration = Duration::from_secs(5);

/// Nodes for one process: far fewer than there is room for on a command line.
const BATCH: usize = 1000;

/// Where pages begin that are invalidated: all of them, or, before the first, none but the attributes.
const PAGES: i64 = 0;
const ATTRIBUTES: i64 = -1;

/// What the other process says of a node.
const DONE: u8 = b'+';
const FAILED: u8 = b'-';

/// The kernel's page cache of one mount.
#[derive(Debug, Default)]
pub(crate) struct PageCache {
    connection: OnceLock<OwnedFd>,
}

impl PageCache {
    /// Takes note of how to reach the kernel, once there is a connection.
    pub(crate) fn attach(&self, connection: BorrowedFd<'_>) -> io::Result<()> {
        let _ = self.connection.set(connection.try_clone_to_owned()?);
        Ok(())
    }

    /// The connection, once there is one.
    pub(crate) fn connection(&self) -> Option<BorrowedFd<'_>> {
        self.connection.get().map(AsFd::as_fd)
    }

    /// Has the kernel ask for a node's attributes when they are wanted next. This waits for nobody.
    pub(crate) fn forget_attributes(&self, node: u64) -> io::Result<()> {
        let connection = self.connection().ok_or(io::ErrorKind::NotConnected)?;
        Ok(invalidate(connection, node, ATTRIBUTES)?)
    }

    /// Whether the kernel knows the node: by a name, an open file, a mapping, as somebody's working directory. This waits for
    /// nobody.
    pub(crate) fn knows(&self, node: u64) -> io::Result<bool> {
        let connection = self.connection().ok_or(io::ErrorKind::NotConnected)?;
        match invalidate(connection, node, ATTRIBUTES) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Has the kernel write what it holds of these files; tells of which it has not, in time or at all.
    pub(crate) fn write_back(&self, nodes: &[INodeNo]) -> Vec<INodeNo> {
        self.write_back_within(nodes, DEADLINE)
    }

    /// The same, for a caller who waits no longer than `each` for the next file.
    pub(crate) fn write_back_within(&self, nodes: &[INodeNo], each: Duration) -> Vec<INodeNo> {
        let mut left = Vec::new();
        for batch in nodes.chunks(BATCH) {
            let words = batch.iter().map(|node| node.0.to_string().into()).collect();
            let said = self.have_done(words, batch.len(), each).unwrap_or_else(|error| {
                tracing::warn!("the kernel cannot be asked to write its pages: {error}");
                Vec::new()
            });
            let done = |at: usize| said.get(at) == Some(&DONE);
            left.extend(batch.iter().enumerate().filter(|(at, _)| !done(*at)).map(|(_, node)| *node));
        }
        left
    }

    /// Has the kernel begin to write what it holds of all files of the mount, and tell their times; waits for the times and
    /// for the answer to a question that comes after all of it, `patience` or some seconds at most. Tells whether they came.
    pub(crate) fn sync(&self, mount: &MountIdentity, patience: Duration) -> bool {
        let Device { major, minor } = mount.device;
        let words = vec![SYNC.into(), format!("{major}:{minor}").into(), mount.path.clone().into()];
        match self.have_done(words, 1, patience.min(SYNC_DEADLINE)) {
            Ok(said) if said == [DONE] => return true,
            Ok(_) => tracing::warn!("the kernel takes long to write what it holds back"),
            Err(error) => tracing::warn!("the kernel cannot be asked to write what it holds back: {error}"),
        }
        false
    }

    /// Has the other process do what `words` say; tells its answers, each of which has so much time.
    fn have_done(&self, words: Vec<OsString>, answers: usize, each: Duration) -> io::Result<Vec<u8>> {
        let connection = self.connection.get().ok_or(io::ErrorKind::NotConnected)?;
        let mut child = Command::new("/proc/self/exe")
            .arg(ROLE)
            .args(words)
            .stdin(Stdio::from(connection.try_clone()?))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let said = child.stdout.take().map_or(Ok(Vec::new()), |from| hear(from, answers, each));
        // It ends as soon as the kernel lets it, and nobody has to wait for that.
        let _ = child.kill();
        reap(child);
        said
    }
}

/// Reads an answer for each node, as long as they keep coming.
fn hear(mut answers: ChildStdout, count: usize, each: Duration) -> io::Result<Vec<u8>> {
    let mut said = vec![0; count];
    let mut heard = 0;
    let mut deadline = Instant::now() + each;
    while heard < count && readable(answers.as_fd(), deadline)? {
        match answers.read(&mut said[heard..])? {
            0 => break,
            more => heard += more,
        }
        deadline = Instant::now() + each;
    }
    said.truncate(heard);
    Ok(said)
}

fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// Waits for the end of the process: at once if it has ended, else in a thread, which does not keep this process alive.
fn reap(mut child: Child) {
    if !matches!(child.try_wait(), Ok(Some(_))) {
        let _ = std::thread::Builder::new().name("reap".to_owned()).spawn(move || child.wait());
    }
}

/// The other process, if this is it: has the kernel write the pages of the nodes named by the arguments, or those of a
/// mount.
pub(crate) fn other_process(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next().is_none_or(|first| first != ROLE) {
        return None;
    }
    let connection = io::stdin();
    while let Some(word) = arguments.next() {
        let outcome = if word == SYNC {
            let mut next = || arguments.next().unwrap_or_default();
            sync(&next(), &next())
        } else {
            drop_pages(connection.as_fd(), &word)
        };
        let answer = if outcome.is_ok() { DONE } else { FAILED };
        if rustix::io::write(io::stdout(), &[answer]).is_err() {
            return Some(ExitCode::FAILURE);
        }
    }
    Some(ExitCode::SUCCESS)
}

fn drop_pages(connection: BorrowedFd<'_>, node: &OsStr) -> Result<(), Errno> {
    let node = node.to_str().and_then(|node| node.parse().ok()).ok_or(Errno::INVAL)?;
    match invalidate(connection, node, PAGES) {
        // A node the kernel has forgotten has no pages.
        Err(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

/// Syncs the mount of `device` on `directory`, and asks it something afterwards. Any other that is there by now is not asked
/// anything.
fn sync(device: &OsStr, directory: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = rustix::fs::open(directory, flags | OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    let Device { major, minor } = covering_mount(there.as_fd())?.device;
    if device != OsStr::new(&format!("{major}:{minor}")) {
        return Err(Errno::XDEV);
    }
    let path = format!("/proc/self/fd/{}", there.as_raw_fd());
    let root = rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty())?;
    rustix::fs::syncfs(&root)?;
    // A request of its own, which the kernel keeps no answer to: it comes after what the sync has sent.
    rustix::fs::fstatvfs(root).map(drop)
}

/// `FUSE_NOTIFY_INVAL_INODE` of a node's attributes, and of all its pages unless `from` is negative: a `fuse_out_header` with the notification's number where replies
/// have their error, then node, offset and length.
fn invalidate(connection: BorrowedFd<'_>, node: u64, from: i64) -> Result<(), Errno> {
    const LENGTH: usize = 16 + 24;
    const NOTIFY_INVAL_INODE: i32 = 2;
    let mut message = [0; LENGTH];
    message[..4].copy_from_slice(&40_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_INVAL_INODE.to_ne_bytes());
    message[16..24].copy_from_slice(&node.to_ne_bytes());
    message[24..32].copy_from_slice(&from.to_ne_bytes());
    rustix::io::retry_on_intr(|| rustix::io::write(connection, &message)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_connection_nothing_is_promised() {
        assert_eq!(PageCache::default().write_back(&[INodeNo(5), INodeNo(7)]), [INodeNo(5), INodeNo(7)]);
    }

    #[test]
    fn a_worker_is_not_taken_for_the_other_process() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(other_process(words(&["--repo", "/r"]).into_iter()).is_none());
        assert!(other_process(words(&[]).into_iter()).is_none());
        assert!(other_process(words(&[ROLE]).into_iter()).is_some());
    }
}
