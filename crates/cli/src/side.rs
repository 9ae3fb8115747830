//! What a command compares: a snapshot, or a thread as it is now, mounted or not.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use selvedge_store::compare::{Body, Item, Side, SnapshotSide, StoredTree};
use selvedge_store::export::{FileReader, HostFile, SourceError};
use selvedge_store::{Extent, Ino, LockError, ObjectId, Repository, Store, ThreadLock, ThreadRef};
use selvedge_view::{PatchedBytes, View, ViewOptions, ViewSide};
use selvedge_worker_proto::{
    Envelope, Receiver, Sender, TreeBody, TreeNode, TreeReply, TreeRequest, WirePath, channel,
};

use crate::context::Context;
use crate::control::{Reply, Request};
use crate::error::{CliError, Result};
use crate::mounted::reach;
use crate::target::{Target, is_dirty};

/// How long a worker may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// What `target` is now.
pub fn open(context: &Context, repository: &Repository, target: &Target) -> Result<Box<dyn Side>> {
    match target {
        Target::Snapshot(id) => Ok(Box::new(SnapshotSide::new(repository.store().clone(), id)?)),
        Target::Thread(thread) => open_thread(context, repository, thread),
    }
}

fn open_thread(context: &Context, repository: &Repository, thread: &ThreadRef) -> Result<Box<dyn Side>> {
    if !is_dirty(thread) {
        return Ok(Box::new(SnapshotSide::new(repository.store().clone(), &thread.snapshot)?));
    }
    match ThreadLock::try_acquire(repository, &thread.id) {
        Ok(lock) => {
            // Looked up again: it may have changed before it was locked.
            let thread = repository.refs().thread_again(thread)?;
            // A view keeps its repository for itself.
            let repository = context.open_repository(repository.dir())?;
            let options = ViewOptions { read_only: true, ..ViewOptions::default() };
            let view = View::open(repository, &thread.name, lock, options)?;
            Ok(Box::new(ViewSide::new(view)?))
        }
        Err(LockError::Held { pid }) => {
            let (mut client, mount) = reach(context, repository, thread, pid)?;
            let (ours, theirs) =
                UnixStream::pair().map_err(|error| CliError::io("cannot make a socket", &error))?;
            match client.ask(Request::Browse { mount }, &[theirs.as_fd()], Instant::now() + ANSWER)? {
                Reply::Browsing {} => {}
                other => return Err(nonsense(&other)),
            }
            Ok(Box::new(MountedSide::new(repository.store().clone(), ours.into())?))
        }
        Err(error) => Err(error.into()),
    }
}

/// A mounted thread, through its worker. What the store has is read here: the worker is asked only about what has
/// changed.
struct MountedSide {
    store: Store,
    root: Item,
    worker: RefCell<Worker>,
}

/// The conversation with a worker.
struct Worker {
    sender: Sender<TreeRequest>,
    receiver: Receiver<TreeReply>,
    asked: u64,
}

impl MountedSide {
    fn new(store: Store, socket: OwnedFd) -> Result<Self> {
        let (sender, receiver) = channel(socket);
        let mut worker = Worker { sender, receiver, asked: 0 };
        let root = match worker.ask(TreeRequest::Root {})? {
            (TreeReply::Node { node }, _) => item(node)?,
            (other, _) => return Err(nonsense(&other)),
        };
        Ok(Self { store, root, worker: RefCell::new(worker) })
    }

    fn list(&self, ino: Ino) -> Result<Vec<(Vec<u8>, Item)>> {
        let mut worker = self.worker.borrow_mut();
        let mut children = Vec::new();
        let mut reply = worker.ask(TreeRequest::Children { ino: ino.0 })?.0;
        loop {
            let TreeReply::Names { names, more } = reply else { return Err(nonsense(&reply)) };
            for name in names {
                children.push((bytes(name.name), item(name.node)?));
            }
            if !more {
                return Ok(children);
            }
            reply = worker.answer()?.0;
        }
    }

    fn open_blob(&self, blob: ObjectId, size: u64) -> Result<Box<dyn FileReader>, SourceError> {
        SnapshotSide::open_blob(&self.store, blob, size)
    }
}

impl Side for MountedSide {
    fn root(&self) -> Result<Item, SourceError> {
        Ok(self.root.clone())
    }

    fn children(&self, directory: &Item) -> Result<Vec<(Vec<u8>, Item)>, SourceError> {
        match &directory.body {
            Body::Directory { stored: Some(stored) } => Ok(SnapshotSide::list(&self.store, &stored.tree)?),
            _ => Ok(self.list(directory.ino)?),
        }
    }

    fn open(&self, file: &Item) -> Result<Option<Box<dyn FileReader>>, SourceError> {
        if let Body::Regular { size, blob: Some(blob) } = file.body {
            return self.open_blob(blob, size).map(Some);
        }
        let (reply, mut fds) = self.worker.borrow_mut().ask(TreeRequest::Open { ino: file.ino.0 })?;
        match reply {
            TreeReply::Gone {} => Ok(None),
            TreeReply::File {} => match fds.pop() {
                Some(fd) => Ok(Some(Box::new(HostFile::new(fd.into())?))),
                None => Ok(Some(Box::new(Nothing))),
            },
            TreeReply::Patched { blob, size } => {
                let blob = blob.parse::<ObjectId>().map_err(|error| nonsense(&error))?;
                let Some(fd) = fds.pop() else { return Err(nonsense(&"no file").into()) };
                let under = self.store.open_blob(&blob, size)?;
                Ok(Some(Box::new(PatchedBytes::open(file.ino, fd.into(), under)?)))
            }
            TreeReply::Node { node } => match item(node)?.body {
                Body::Regular { size, blob: Some(blob) } => self.open_blob(blob, size).map(Some),
                // It became something else meanwhile.
                _ => Ok(None),
            },
            other @ (TreeReply::Names { .. } | TreeReply::Failed(_)) => Err(nonsense(&other).into()),
        }
    }
}

impl Worker {
    fn ask(&mut self, request: TreeRequest) -> Result<(TreeReply, Vec<OwnedFd>)> {
        self.asked += 1;
        let deadline = Some(Instant::now() + ANSWER);
        self.sender.send(Envelope::new(self.asked, request), &[], deadline).map_err(lost)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<(TreeReply, Vec<OwnedFd>)> {
        let received = self.receiver.recv(Some(Instant::now() + ANSWER)).map_err(lost)?;
        match received.envelope.msg {
            TreeReply::Failed(failure) => Err(failure.into()),
            reply => Ok((reply, received.fds)),
        }
    }
}

/// The answer did not come, or not whole.
fn lost(error: impl std::fmt::Display) -> CliError {
    CliError::failed(format!("the worker of the mounted thread does not answer: {error}"))
        .hint("selvedge list shows how the mount is; try again")
}

fn nonsense(reply: &impl std::fmt::Debug) -> CliError {
    CliError::failed(format!("a question about a tree was answered with {reply:?}"))
        .hint("use the version of selvedge that made the mount")
}

fn bytes(path: WirePath) -> Vec<u8> {
    path.into_path_buf().into_os_string().into_vec()
}

fn item(node: TreeNode) -> Result<Item> {
    let id = |text: &str| text.parse::<ObjectId>().map_err(|error| nonsense(&error));
    let optional = |text: &Option<String>| text.as_deref().map(id).transpose();
    let body = match &node.body {
        TreeBody::Regular { size, blob } => Body::Regular { size: *size, blob: optional(blob)? },
        TreeBody::Directory { tree, digest } => {
            let digest = optional(digest)?;
            Body::Directory { stored: optional(tree)?.map(|tree| StoredTree { tree, digest }) }
        }
        TreeBody::Symlink { target } => {
            let target: &OsStr = target.as_path().as_os_str();
            Body::Symlink { target: target.as_bytes().to_vec() }
        }
        TreeBody::Fifo {} => Body::Fifo,
        TreeBody::Socket {} => Body::Socket,
        TreeBody::CharDevice { rdev } => Body::CharDevice { rdev: *rdev },
        TreeBody::BlockDevice { rdev } => Body::BlockDevice { rdev: *rdev },
    };
    let TreeNode { ino, mode, uid, gid, xattrs, .. } = node;
    Ok(Item { ino: Ino(ino), mode, uid, gid, xattrs: id(&xattrs)?, body })
}

/// A file without bytes.
struct Nothing;

impl FileReader for Nothing {
    fn size(&self) -> u64 {
        0
    }

    fn data(&self) -> io::Result<Vec<Extent>> {
        Ok(Vec::new())
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_store::backend::MemoryBackend;
    use std::io::Write;
    use std::sync::Arc;

    /// What comes of a worker that answers its first question with these bytes and ends.
    fn told(bytes: &[u8]) -> CliError {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let store = Store::new(Arc::new(MemoryBackend::default()));
        match MountedSide::new(store, ours.into()) {
            Ok(_) => panic!("{bytes:?} is no answer"),
            Err(error) => error,
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_or_senseless_is_an_error() {
        let reply = TreeReply::Names { names: Vec::new(), more: false };
        let frame = selvedge_worker_proto::encode(&Envelope::new(1, reply).to_json().unwrap()).unwrap();
        for cut in [0, 3, frame.len() - 1] {
            assert!(told(&frame[..cut]).message.contains("does not answer"), "{cut}");
        }
        assert!(told(&frame).message.contains("was answered with"));
    }
}
