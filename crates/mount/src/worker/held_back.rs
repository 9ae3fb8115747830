//! What programs wrote and the kernel still holds, for those who want the thread as programs see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::INodeNo;
use selvedge_mountpoint::MountIdentity;
use selvedge_view::View;

use crate::load::Load;
use crate::page_cache::PageCache;

/// How long a caller waits for what a sync of the mount has sent to be carried out.
const SENT_DEADLINE: Duration = Duration::from_secs(5);

/// What the kernel may hold of a mount's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Stores through mappings of files that are open for writing.
    Stores,
    /// All that is written to files that are open for writing.
    Writes,
    /// Stores through mappings of files of which nobody told that they are open.
    AnyStores,
}

/// What the kernel holds of a mount's files.
#[derive(Debug, Clone)]
pub(crate) struct HeldBack {
    pages: Arc<PageCache>,
    load: Arc<Load>,
    mount: MountIdentity,
    held: Held,
}

impl HeldBack {
    /// What the kernel holds of the files of `mount`, where it may be `held`; `load` is at work on what it sends.
    pub(crate) fn new(pages: &Arc<PageCache>, load: &Arc<Load>, mount: &MountIdentity, held: Held) -> Self {
        Self { pages: Arc::clone(pages), load: Arc::clone(load), mount: mount.clone(), held }
    }

    /// Has the kernel write everything; tells of how many files it did not, in time.
    pub(crate) fn bring_in(&self, view: &View) -> u64 {
        if self.held == Held::AnyStores {
            let all = self.bring_in_any(Duration::MAX);
            return u64::from(!all);
        }
        let writers = writers(view);
        let syncs = self.held == Held::Writes && !writers.is_empty();
        let told = syncs && self.pages.sync(&self.mount, Duration::MAX);
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
        if self.held == Held::Writes {
            self.bring_in(view);
        }
    }

    /// Has the kernel write as much as it can within `patience`, where it holds more than it may forget: the mount is about
    /// to be cut off.
    pub(crate) fn rescue(&self, view: &View, patience: Duration) {
        let done = match self.held {
            Held::Stores => true,
            Held::AnyStores => self.bring_in_any(patience),
            Held::Writes => {
                let writers = writers(view);
                if writers.is_empty() {
                    return;
                }
                let until = Instant::now() + patience;
                self.pages.sync(&self.mount, patience);
                let left = until.saturating_duration_since(Instant::now());
                self.pages.write_back_within(&writers, left).is_empty()
            }
        };
        if !done {
            tracing::warn!("not all that programs wrote could be written out before the mount ends by force");
        }
    }

    /// Has the kernel write all stores through mappings, whichever files they are of. What it sends comes before the
    /// question with which a sync ends, because none of it may wait its turn in the kernel
    /// (`Tuning::background`); so it is carried out when everything is that was read from
    /// the kernel by then.
    fn bring_in_any(&self, patience: Duration) -> bool {
        self.pages.sync(&self.mount, patience) && self.load.settle(patience.min(SENT_DEADLINE))
    }
}

/// The files that somebody has open for writing, as the kernel knows them: what is held back is theirs.
fn writers(view: &View) -> Vec<INodeNo> {
    view.writers().into_iter().map(|ino| INodeNo(ino.0)).collect()
}
