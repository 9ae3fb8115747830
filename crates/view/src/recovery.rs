//! What an upper needs before it is used again, by how its last user ended.
//!
//! After an orderly end: nothing. After the death of processes: nothing either, as every commit and every written
//! byte is in the kernel. After a loss of power the catalog is a prefix of what was committed, and working files
//! hold whatever reached the disk: rows that say so fall back to content that is known to be whole.

use crate::catalog::{Catalog, NameRow, Unsettled};
use crate::commit::{Commit, Effect};
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode};
use crate::working_files::WorkingFiles;
use selvedge_store::Ino;
use std::collections::HashMap;

/// Brings an upper that `boot_id` finds into order; tells whether every working file is known to be durable.
pub(crate) fn recover(catalog: &mut Catalog, files: &WorkingFiles, boot_id: &str) -> Result<bool> {
    if catalog.ended_orderly()? {
        return Ok(true);
    }
    files.clear_tmp()?;
    if catalog.boot_id()?.as_deref() == Some(boot_id) {
        return Ok(false);
    }
    let commit = fall_back(catalog)?;
    let stale = commit.effects.iter().filter_map(|effect| match effect {
        Effect::PutInode(inode) if !matches!(inode.body, Body::File { .. }) => Some(inode.ino),
        _ => None,
    });
    let stale: Vec<Ino> = stale.collect();
    tracing::info!(effects = commit.effects.len(), "recovering the thread after a loss of power");
    catalog.commit(&commit)?;
    // Only a row that is durable may let go of the file it does not want.
    catalog.checkpoint()?;
    for ino in stale {
        files.remove(ino)?;
    }
    Ok(true)
}

/// Everything that falls back: replaced names to the file they had, copies to what they were made from.
fn fall_back(catalog: &Catalog) -> Result<Commit> {
    let mut rows: HashMap<Ino, Inode> = HashMap::new();
    let mut commit = Commit::new();
    for unsettled in catalog.unsettled()? {
        put_back(catalog, &mut rows, &mut commit, &unsettled)?;
    }
    for ino in catalog.with_fallback()? {
        let row = row(catalog, &mut rows, ino)?;
        if let Some(fallback) = row.fallback.take() {
            row.body = fallback;
            row.host_ctime = None;
        }
    }
    for (_, row) in rows {
        commit.put(row);
    }
    Ok(commit)
}

fn put_back(
    catalog: &Catalog,
    rows: &mut HashMap<Ino, Inode>,
    commit: &mut Commit,
    unsettled: &Unsettled,
) -> Result<()> {
    let Unsettled { parent, name, old, source } = unsettled;
    if catalog.name(*parent, name)?
        != Some(NameRow::Node { ino: *source, kind: row(catalog, rows, *source)?.kind })
    {
        return Err(ViewError::Damaged {
            ino: *source,
            why: "it replaced a name that is not its own".to_owned(),
        });
    }
    let restored = row(catalog, rows, *old)?;
    restored.nlink += 1;
    let kind = restored.kind;
    commit.push(Effect::PutName { parent: *parent, name: name.clone(), ino: *old, kind });
    commit.push(Effect::DropOrphan(*old));
    let replaced_by = row(catalog, rows, *source)?;
    replaced_by.nlink = replaced_by.nlink.saturating_sub(1);
    if replaced_by.nlink == 0 {
        commit.push(Effect::AddOrphan(*source));
    }
    commit.push(Effect::Settle { parent: *parent, name: name.clone() });
    Ok(())
}

fn row<'a>(catalog: &Catalog, rows: &'a mut HashMap<Ino, Inode>, ino: Ino) -> Result<&'a mut Inode> {
    if let std::collections::hash_map::Entry::Vacant(vacant) = rows.entry(ino) {
        let damaged = || ViewError::Damaged { ino, why: "a row it needs to fall back is missing".to_owned() };
        vacant.insert(catalog.inode(ino)?.ok_or_else(damaged)?);
    }
    rows.get_mut(&ino).ok_or(ViewError::NotFound)
}
