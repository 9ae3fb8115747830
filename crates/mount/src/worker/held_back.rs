//! What programs wrote and the kernel still holds, for those who want the thread as programs see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::INodeNo;
use selvedge_mountpoint::MountIdentity;
use selvedge_view::View;

use crate::page_cache::PageCache;

/// What the kernel holds of a mount's files.
#[derive(Debug, Clone)]
pub(crate) struct HeldBack {
    pages: Arc<PageCache>,
    /// The mount, if writes to it are held back, and not only stores through mappings.
    mount: Option<MountIdentity>,
}

impl HeldBack {
    /// What the kernel holds of the files of `identity`'s mount; of all that is written to them if it is to hold writes back.
    pub(crate) fn new(pages: &Arc<PageCache>, identity: &MountIdentity, writeback: bool) -> Self {
        Self { pages: Arc::clone(pages), mount: writeback.then(|| identity.clone()) }
    }

    /// Has the kernel write everything; tells of how many files it did not, in time.
    pub(crate) fn bring_in(&self, view: &View) -> u64 {
        let writers = writers(view);
        let mount = self.mount.as_ref().filter(|_| !writers.is_empty());
        let told = mount.is_some_and(|mount| self.pages.sync(mount, Duration::MAX));
        let slow = self.pages.write_back(&writers);
        if told && let Err(error) = view.settle_times() {
            tracing::warn!("times of files that are open may be later than they are: {error}");
        }
        for node in &slow {
            tracing::warn!(ino = node.0, "the kernel takes long to write what it holds of a file");
        }
        slow.len() as u64
    }

    /// The same where writes are held back, for somebody who reads the thread now; elsewhere nothing.
    pub(crate) fn bring_in_writes(&self, view: &View) {
        if self.mount.is_some() {
            self.bring_in(view);
        }
    }

    /// Has the kernel write as much as it can within `patience`, where writes are held back: the mount is about to be cut off.
    pub(crate) fn rescue(&self, view: &View, patience: Duration) {
        let (Some(mount), writers) = (&self.mount, writers(view)) else { return };
        if writers.is_empty() {
            return;
        }
        let until = Instant::now() + patience;
        self.pages.sync(mount, patience);
        let left = until.saturating_duration_since(Instant::now());
        if !self.pages.write_back_within(&writers, left).is_empty() {
            tracing::warn!("not all that programs wrote could be written out before the mount ends by force");
        }
    }
}

/// The files that somebody has open for writing, as the kernel knows them: what is held back is theirs.
fn writers(view: &View) -> Vec<INodeNo> {
    view.writers().into_iter().map(|ino| INodeNo(ino.0)).collect()
}
