//! Files without a name that the kernel forgot while nobody listened.
//!
//! The kernel says once that it has forgotten a node, and a worker that dies with that word in hand takes it along: the
//! file would keep its room until the unmount. So a successor asks of each file without a name whether the kernel knows it.
//! One that it does not know can neither be open nor come to be known again, for it has no name. Of all others the kernel
//! has yet to say that it forgets them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use selvedge_view::View;

use crate::backings::Backings;
use crate::page_cache::PageCache;

/// Those who waited for the takeover come first.
const LATER: Duration = Duration::from_millis(100);

/// Looks for such files once, from a thread of its own.
pub(crate) fn start(view: &Arc<View>, pages: &Arc<PageCache>, backings: &Arc<Backings>) {
    let (view, pages, backings) = (Arc::downgrade(view), Arc::clone(pages), Arc::clone(backings));
    let started = thread::Builder::new().name("forgotten".to_owned()).spawn(move || {
        thread::sleep(LATER);
        // Not kept longer than it is used: an end that comes meanwhile closes it.
        let Some(view) = view.upgrade() else { return };
        look(&view, &pages, &backings);
    });
    if let Err(error) = started {
        tracing::warn!("files without a name may keep their room: {error}");
    }
}

fn look(view: &View, pages: &PageCache, backings: &Backings) {
    for ino in view.nameless() {
        match pages.knows(ino.0) {
            Ok(true) => {}
            Ok(false) => {
                // Whoever had them opened was killed before it could learn of them.
                for handle in view.handles_of(ino) {
                    backings.release(view, ino, handle);
                }
                view.forget(ino);
            }
            // The connection has ended, and with it all of them.
            Err(_) => return,
        }
    }
}
