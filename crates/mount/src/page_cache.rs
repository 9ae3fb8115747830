//! What programs stored through shared mappings and the kernel has not written to us yet.
//!
//! Stores reach a worker only at msync(2), fsync(2), close or when the kernel sees fit; until then a page that is
//! full of data in the kernel may be a hole in the working file. So whoever asks where a file's data is while it
//! may be mapped has the kernel write its pages first, by invalidating them.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

/// How long a caller waits for the kernel to write a file's pages. The kernel waits for our answers meanwhile, so
/// when every dispatch thread is in this wait nobody answers until it is over.
const DEADLINE: Duration = Duration::from_secs(1);

/// The kernel's page cache of one mount.
#[derive(Debug, Default)]
pub(crate) struct PageCache {
    notifier: OnceLock<Notifier>,
}

impl PageCache {
    /// Takes note of how to reach the kernel, once there is a connection.
    pub(crate) fn attach(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Has the kernel write what it holds of a file; tells whether it has. The kernel's writes are requests to
    /// this worker, so a thread of its own waits for them.
    pub(crate) fn write_back(&self, ino: INodeNo) -> bool {
        let Some(notifier) = self.notifier.get().cloned() else { return false };
        let (done, outcome) = mpsc::sync_channel(1);
        let started = thread::Builder::new().name("write-back".to_owned()).spawn(move || {
            // Nobody listens any more when it took too long.
            let _ = done.send(notifier.inval_inode(ino, 0, 0));
        });
        if started.is_err() {
            return false;
        }
        match outcome.recv_timeout(DEADLINE) {
            Ok(Ok(())) => true,
            // A node the kernel has forgotten has no pages.
            Ok(Err(error)) => error.kind() == io::ErrorKind::NotFound,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_connection_nothing_is_promised() {
        assert!(!PageCache::default().write_back(INodeNo(5)));
    }
}
