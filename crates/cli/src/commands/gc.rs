//! `selvedge gc`

use std::time::Duration;

use selvedge_store::gc::{Marked, give_back};
use selvedge_view::{objects_of_layer, remove_unneeded_layers};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::ui::{counted, human_bytes, show};

/// How long running imports, exports and their like are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Less room than this in the object database that waits for later objects is not worth a word, in bytes.
const MENTIONED: u64 = 1 << 20;

/// Remove what nothing needs any more
///
/// Removes snapshots that no thread comes from, the objects that only they need, and layers that no thread has. Mounts
/// go on meanwhile; commands that read or write objects are waited for.
#[derive(Debug, clap::Args)]
pub struct GcArgs {}

#[derive(Debug, Serialize)]
struct Document {
    removed: u64,
    bytes: u64,
}

/// Runs the command.
pub fn run(context: &Context, GcArgs {}: GcArgs) -> Result<()> {
    let repository = context.repository()?;
    let (objects, spare) = {
        let progress = context.ui.progress("removing");
        let layer_objects = |layer| objects_of_layer(&repository, layer).map_err(Into::into);
        let removed = Marked::mark(&repository, &layer_objects)?
            .sweep(PATIENCE, &mut |now| progress.set(now.files, now.bytes))?;
        (removed, give_back(&repository)?)
    };
    let layers = remove_unneeded_layers(&repository);
    if spare.kept >= MENTIONED {
        context.ui.warn(format!(
            "{} in objects.db are kept for later objects: the repository is older than giving them back; with nothing mounted and no command running, sqlite3 {} 'PRAGMA auto_vacuum = INCREMENTAL; VACUUM' changes that for good",
            human_bytes(spare.kept),
            show(&repository.path().join("objects.db")),
        ));
    }
    let document = Document { removed: objects.count + layers.count, bytes: objects.bytes + layers.bytes };
    context.ui.result(&document, || match document.removed {
        0 => "everything there is is needed\n".to_owned(),
        _ => format!(
            "removed {} and {}, {}\n",
            counted(objects.count, "object"),
            counted(layers.count, "layer"),
            human_bytes(document.bytes)
        ),
    })
}
