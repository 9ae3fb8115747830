//! The thread's tree, as it is now, for another process to look at.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use selvedge_store::compare::{Body, Item};
use selvedge_store::{Ino, ObjectId};
use selvedge_view::{Changed, FileBytes, View, ViewError};
use selvedge_worker_proto::{
    Envelope, ErrorKind, Failure, Received, RecvError, Sender, TreeBody, TreeName, TreeNode, TreeReply,
    TreeRequest, WirePath, channel, name_replies,
};

use super::PEER_DEADLINE;
use super::held_back::HeldBack;
use super::refusal::{Refusal, of_number, sentence};

/// How long an asker may ask nothing, while it reads a file for instance.
const IDLE: Duration = Duration::from_mins(15);

/// The most askers at once: each costs a thread.
const MAX_ASKERS: usize = 16;

/// How many are being answered.
#[derive(Debug, Default)]
pub(crate) struct Askers(Arc<AtomicUsize>);

impl Askers {
    /// Answers what is asked on `socket`, in a thread of its own, until its end or that of the view. The view ends
    /// in order all the same: it is held only while a question is being answered.
    pub(crate) fn admit(&self, view: &Arc<View>, held: HeldBack, socket: OwnedFd) -> Result<(), Refusal> {
        let seat = Seat::take(&self.0);
        if self.0.load(Ordering::Acquire) > MAX_ASKERS {
            return Err(Refusal::new(
                ErrorKind::Conflict,
                format!("{MAX_ASKERS} others look at the thread's tree already"),
                "try again when they are done",
            ));
        }
        let view = Arc::downgrade(view);
        let answer = move || {
            let _seat = seat;
            serve(&view, &held, socket);
        };
        match thread::Builder::new().name("browse".into()).spawn(answer) {
            Ok(_) => Ok(()),
            Err(error) => Err(Refusal::system("cannot start a thread", &error)),
        }
    }
}

/// A place in the count, given back when dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(view: &Weak<View>, held: &HeldBack, socket: OwnedFd) {
    let (sender, mut receiver) = channel::<TreeReply, TreeRequest>(socket);
    let mut changed = None;
    loop {
        match receiver.recv(Some(Instant::now() + IDLE)) {
            Ok(Received { envelope: Envelope { id, msg, .. }, .. }) => {
                let answered = match view.upgrade() {
                    Some(view) => Answer { view: &view, held, sender: &sender, id }.give(&msg, &mut changed),
                    None => false,
                };
                if !answered {
                    return;
                }
            }
            Err(RecvError::Closed) => return,
            Err(error) => return tracing::debug!("no more questions about the tree: {error}"),
        }
    }
}

/// The way back to the asker, for one question.
struct Answer<'a> {
    view: &'a View,
    held: &'a HeldBack,
    sender: &'a Sender<TreeReply>,
    id: u64,
}

impl Answer<'_> {
    /// Answers; `false` if nobody hears it.
    fn give(&self, request: &TreeRequest, changed: &mut Option<Changed>) -> bool {
        let answered = match request {
            TreeRequest::Root {} => self.root(changed),
            TreeRequest::Children { ino } => self.children(Ino(*ino), changed),
            TreeRequest::Open { ino } => self.open(Ino(*ino)),
        };
        match answered {
            Ok(sent) => sent,
            Err(error) => {
                // What changed is brought into the catalog's file before all of it is looked at.
                let is_full = error.downcast_ref::<ViewError>().is_some_and(ViewError::is_disk_full);
                let hint = if is_full {
                    of_number(Some(libc::ENOSPC))
                } else {
                    "try again; selvedge fsck says whether the repository is damaged"
                };
                let failure = Failure::new(ErrorKind::Failed, sentence(&*error)).hint(hint);
                self.send(TreeReply::Failed(failure), None)
            }
        }
    }

    fn root(&self, changed: &mut Option<Changed>) -> Result<bool, Problem> {
        // From here on: a tree that is looked at again is looked at as it is by then.
        *changed = None;
        self.held.bring_in_writes(self.view);
        let node = wire_node(&self.view.root_item(self.changed(changed)?)?);
        Ok(self.send(TreeReply::Node { node }, None))
    }

    fn children(&self, ino: Ino, changed: &mut Option<Changed>) -> Result<bool, Problem> {
        let items = self.view.child_items(ino, self.changed(changed)?)?;
        let name = |(name, item): (Vec<u8>, Item)| TreeName { name: wire_name(name), node: wire_node(&item) };
        let replies = name_replies(items.into_iter().map(name).collect())?;
        Ok(replies.into_iter().all(|reply| self.send(reply, None)))
    }

    fn open(&self, ino: Ino) -> Result<bool, Problem> {
        Ok(match self.view.file_bytes(ino)? {
            None => self.send(TreeReply::Gone {}, None),
            Some(FileBytes::Empty) => self.send(TreeReply::File {}, None),
            Some(FileBytes::File(file)) => self.send(TreeReply::File {}, Some(&file.into())),
            Some(FileBytes::Patched { file, blob, size }) => {
                let blob = blob.to_string();
                self.send(TreeReply::Patched { blob, size }, Some(&file.into()))
            }
            Some(FileBytes::Stored(item)) => self.send(TreeReply::Node { node: wire_node(&item) }, None),
        })
    }

    fn changed<'a>(&self, known: &'a mut Option<Changed>) -> Result<&'a Changed, Problem> {
        Ok(match known {
            Some(changed) => changed,
            None => known.insert(self.view.changed()?),
        })
    }

    fn send(&self, reply: TreeReply, fd: Option<&OwnedFd>) -> bool {
        let fds: Vec<_> = fd.into_iter().map(OwnedFd::as_fd).collect();
        let deadline = Some(Instant::now() + PEER_DEADLINE);
        let sent = self.sender.send(Envelope::new(self.id, reply), &fds, deadline);
        sent.inspect_err(|error| tracing::debug!("nobody hears about the tree: {error}")).is_ok()
    }
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

fn wire_name(name: Vec<u8>) -> WirePath {
    let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(name);
    WirePath::from(name)
}

fn wire_node(item: &Item) -> TreeNode {
    let id = |id: ObjectId| id.to_string();
    let body = match &item.body {
        Body::Regular { size, blob } => TreeBody::Regular { size: *size, blob: blob.map(id) },
        Body::Directory { stored } => TreeBody::Directory {
            tree: stored.map(|stored| id(stored.tree)),
            digest: stored.and_then(|stored| stored.digest).map(id),
        },
        Body::Symlink { target } => TreeBody::Symlink { target: wire_name(target.clone()) },
        Body::Fifo => TreeBody::Fifo {},
        Body::Socket => TreeBody::Socket {},
        Body::CharDevice { rdev } => TreeBody::CharDevice { rdev: *rdev },
        Body::BlockDevice { rdev } => TreeBody::BlockDevice { rdev: *rdev },
    };
    TreeNode { ino: item.ino.0, mode: item.mode, uid: item.uid, gid: item.gid, xattrs: id(item.xattrs), body }
}
