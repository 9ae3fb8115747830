//! Listings that somebody is in the middle of: a directory is listed once for all the replies that it takes.

use crate::dir_stream::Listing;
use selvedge_store::Ino;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Directories whose listings are kept; whoever is in the middle of another has it listed again.
const MOST: usize = 32;

/// Names kept beyond those of the latest listing.
const MOST_NAMES: usize = 100_000;

/// The latest listings, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    kept: Mutex<VecDeque<(Ino, Arc<Listing>)>>,
}

impl Listings {
    /// The listing of `directory` that was kept last.
    pub(crate) fn get(&self, directory: Ino) -> Option<Arc<Listing>> {
        self.kept().iter().find(|(of, _)| *of == directory).map(|(_, listing)| Arc::clone(listing))
    }

    /// Keeps a listing in place of an earlier one.
    pub(crate) fn keep(&self, directory: Ino, listing: &Arc<Listing>) {
        let mut kept = self.kept();
        kept.retain(|(of, _)| *of != directory);
        let mut names: usize = kept.iter().map(|(_, listing)| listing.len()).sum();
        while kept.len() >= MOST || names > MOST_NAMES {
            let Some((_, oldest)) = kept.pop_front() else { break };
            names -= oldest.len();
        }
        kept.push_back((directory, Arc::clone(listing)));
    }

    /// Lets go of a listing that somebody has come to the end of.
    pub(crate) fn end(&self, directory: Ino) {
        self.kept().retain(|(of, _)| *of != directory);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Ino, Arc<Listing>)>> {
        // A listing is a copy of what can be listed again: whichever are there are right.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
