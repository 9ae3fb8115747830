//! Looking into layers: for damage, and for what they need of the store.

use crate::catalog::Catalog;
use crate::claim::Claim;
use crate::error::{Result, ViewError};
use crate::held::held_by;
use crate::inode::Body;
use crate::layers::Frozen;
use crate::view::boot_id;
use selvedge_store::gc::ThreadLayer;
use selvedge_store::{LayerId, ObjectId, ObjectKind, Repository, ThreadLock, ThreadRef};

/// What is wrong with the catalogs of a thread's layers: each with its layer. The upper is looked at only by who has
/// the thread's lock, since nobody opens a catalog that another process writes.
pub fn check_layers(
    repo: &Repository,
    thread: &ThreadRef,
    lock: Option<&ThreadLock>,
) -> Vec<(LayerId, String)> {
    let mut problems = Vec::new();
    let mut note = |layer: LayerId, found: Result<Vec<String>>| match found {
        Ok(found) => problems.extend(found.into_iter().map(|problem| (layer, problem))),
        Err(error) => problems.push((layer, format!("it cannot be opened: {error}"))),
    };
    for &layer in &thread.layers {
        note(layer, check_frozen(repo, layer));
    }
    if let (Some(upper), Some(_)) = (thread.upper, lock) {
        note(upper, check_upper(repo, upper));
    }
    problems
}

fn check_frozen(repo: &Repository, layer: LayerId) -> Result<Vec<String>> {
    match Frozen::open(repo, layer, &boot_id()?)? {
        Some((_, mut catalog)) => catalog.problems(),
        None => Ok(vec!["a loss of power took a layer that it stands on".to_owned()]),
    }
}

fn check_upper(repo: &Repository, layer: LayerId) -> Result<Vec<String>> {
    let directory = repo.layer_dir(&layer);
    let claim = Claim::take(&directory)?;
    let mut catalog = Catalog::open_upper(&directory)?.with_claim(claim);
    let problems = catalog.problems()?;
    catalog.close()?;
    Ok(problems)
}

/// The objects that a layer needs: those that the rows of a frozen one name, and of an upper, whoever writes it, those that only
/// files without a name need.
pub fn objects_of_layer(repo: &Repository, layer: ThreadLayer) -> Result<Vec<(ObjectKind, ObjectId)>> {
    match layer {
        ThreadLayer::Frozen(layer) => objects_of_frozen(repo, layer),
        ThreadLayer::Upper(layer) => held_by(&repo.layer_dir(&layer)),
    }
}

fn objects_of_frozen(repo: &Repository, layer: LayerId) -> Result<Vec<(ObjectKind, ObjectId)>> {
    let (_, mut catalog) = Frozen::open(repo, layer, &boot_id()?)?.ok_or(ViewError::LayerLost { layer })?;
    let mut objects = Vec::new();
    for body in catalog.bodies()? {
        match body {
            Body::Blob { id, holes, .. } => {
                objects.push((ObjectKind::Blob, id));
                objects.extend(holes.map(|holes| (ObjectKind::Holes, holes)));
            }
            Body::Patched(patch) => {
                objects.push((ObjectKind::Blob, patch.blob));
                objects.extend(patch.holes.map(|holes| (ObjectKind::Holes, holes)));
            }
            Body::Tree { id } => objects.push((ObjectKind::Tree, id)),
            Body::None | Body::File { .. } | Body::Target(_) => {}
        }
    }
    Ok(objects)
}
