//! A thread as `thread list` and `thread show` tell of it.

use std::collections::HashMap;

use selvedge_store::{LayerId, Repository, ThreadRef, disk_use};
use selvedge_worker_proto::WirePath;
use serde::Serialize;

use crate::changes::Dirtiness;
use crate::context::Context;
use crate::error::Result;
use crate::standing::live_mounts;

/// What there is to say about a thread.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Its name.
    pub(super) name: String,
    /// The snapshot beneath its changes.
    pub(super) snapshot: String,
    /// Where it is mounted.
    pub(super) mountpoint: Option<WirePath>,
    /// Whether it has changes since its snapshot.
    pub(super) dirty: bool,
    /// Disk space of the layers that no other thread uses, in bytes.
    pub(super) own_bytes: u64,
}

/// Summaries of `threads`.
pub(super) fn of(context: &Context, repository: &Repository, threads: &[ThreadRef]) -> Result<Vec<Summary>> {
    let mut mounted: HashMap<String, WirePath> = live_mounts(&context.runtime()?, context.ui)?
        .into_iter()
        .filter(|(record, _)| record.repo.as_path() == repository.dir())
        .map(|(record, document)| (record.thread_id, document.mountpoint))
        .collect();
    let mut users: HashMap<LayerId, usize> = HashMap::new();
    for thread in repository.refs().threads()? {
        for layer in layers(&thread) {
            *users.entry(layer).or_default() += 1;
        }
    }
    let dirtiness = Dirtiness::new(context, repository);
    let summary = |thread: &ThreadRef| Summary {
        name: thread.name.to_string(),
        snapshot: thread.snapshot.to_string(),
        mountpoint: mounted.remove(&thread.id.to_string()),
        dirty: dirtiness.of(thread),
        own_bytes: layers(thread)
            .filter(|layer| users.get(layer).is_none_or(|count| *count < 2))
            .map(|layer| disk_use(&repository.layer_dir(&layer)))
            .sum(),
    };
    Ok(threads.iter().map(summary).collect())
}

/// A thread's layers, frozen ones and its own.
fn layers(thread: &ThreadRef) -> impl Iterator<Item = LayerId> + '_ {
    thread.layers.iter().chain(&thread.upper).copied()
}
