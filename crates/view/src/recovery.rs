//! What an upper needs before it is used again, by how its last user ended.
//!
//! After an orderly end: nothing. After the death of processes: nothing either, as every commit and every written
//! byte is in the kernel. After a loss of power the catalog is a prefix of what was committed, and working files
//! hold whatever reached the disk: rows that say so fall back to content that is known to be whole.

use crate::catalog::{Catalog, NameRow, Unsettled};
use crate::commit::{Commit, Effect};
use crate::error::{Result, ViewError};
use crate::inode::Inode;
use crate::working_files::WorkingFiles;
use foldhash::HashMap;
use selvedge_store::{Ino, LayerId};

/// Whether a loss of power took what this layer stands on: then nothing in it was ever durable for anybody.
pub(crate) fn is_lost(catalog: &Catalog, boot_id: &str) -> Result<bool> {
    Ok(catalog.is_unfounded()? && lost_power(catalog, boot_id)?)
}

/// Whether power was lost while the layer was in use.
pub(crate) fn lost_power(catalog: &Catalog, boot_id: &str) -> Result<bool> {
    Ok(!catalog.ended_orderly()? && catalog.boot_id()?.as_deref() != Some(boot_id))
}

/// Brings an upper that `boot_id` finds into order; tells whether every working file is known to be durable.
pub(crate) fn recover(
    layer: LayerId,
    catalog: &mut Catalog,
    files: &WorkingFiles,
    boot_id: &str,
) -> Result<bool> {
    if catalog.ended_orderly()? {
        return Ok(true);
    }
    files.clear_tmp()?;
    if catalog.boot_id()?.as_deref() == Some(boot_id) {
        return Ok(false);
    }
    // What a torn journal has behind the last record that counts must not be taken for what follows it now.
    catalog.begin_anew()?;
    let commit = fall_back(catalog)?;
    let stale = commit.effects.iter().filter_map(|effect| match effect {
        Effect::PutInode(inode) if inode.body.layer().is_none() => Some(inode.ino),
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
    restore_coverage(layer, catalog, files)?;
    Ok(true)
}

/// Makes patched files have only those parts of their own that were known to be durable: others may have been noted
/// without having reached the disk.
fn restore_coverage(layer: LayerId, catalog: &Catalog, files: &WorkingFiles) -> Result<()> {
    for (ino, patch) in catalog.patched()? {
        if patch.layer != layer {
            continue;
        }
        let file = files.open_patched(ino, true)?;
        patch
            .durable
            .write(&file)
            .and_then(|()| file.sync_all())
            .map_err(ViewError::host("restore a file"))?;
    }
    Ok(())
}

/// Everything that falls back: replaced names to the file they had, copies to what they were made from.
fn fall_back(catalog: &Catalog) -> Result<Commit> {
    let mut rows: HashMap<Ino, Inode> = HashMap::default();
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
    let Unsettled { parent, name, old, source, from } = unsettled;
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
    let kind = replaced_by.kind;
    if is_free(catalog, from)? {
        commit.push(Effect::PutName { parent: from.0, name: from.1.clone(), ino: *source, kind });
    } else {
        replaced_by.nlink = replaced_by.nlink.saturating_sub(1);
        if replaced_by.nlink == 0 {
            commit.push(Effect::AddOrphan { ino: *source, since: None });
        }
    }
    commit.push(Effect::Settle { parent: *parent, name: name.clone() });
    Ok(())
}

/// Whether a name that was moved away can be given back: its directory is there, and nothing took the name since.
fn is_free(catalog: &Catalog, (parent, name): &(Ino, Vec<u8>)) -> Result<bool> {
    let directory = catalog.inode(*parent)?.is_some_and(|row| row.nlink > 0);
    Ok(directory && !matches!(catalog.name(*parent, name)?, Some(NameRow::Node { .. })))
}

fn row<'a>(catalog: &Catalog, rows: &'a mut HashMap<Ino, Inode>, ino: Ino) -> Result<&'a mut Inode> {
    if let std::collections::hash_map::Entry::Vacant(vacant) = rows.entry(ino) {
        let damaged = || ViewError::Damaged { ino, why: "a row it needs to fall back is missing".to_owned() };
        vacant.insert(catalog.inode(ino)?.ok_or_else(damaged)?);
    }
    rows.get_mut(&ino).ok_or(ViewError::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::Coverage;
    use crate::inode::{Applied, Body, Patch};
    use crate::request::RequestKey;
    use selvedge_store::{FileKind, LayerId, ObjectId, Timestamp, Xattrs};
    use std::path::Path;

    const DIR: Ino = Ino(2);
    const EARLIER: &str = "boot-1";
    const NOW: &str = "boot-2";

    fn layer() -> LayerId {
        LayerId::from_bytes([1; 16])
    }

    fn blob() -> Body {
        Body::Blob { id: ObjectId::from_bytes([5; 32]), size: 9, holes: None }
    }

    fn file(ino: u64, nlink: u32, fallback: Option<Body>) -> Inode {
        let time = Timestamp { sec: 1, nsec: 2 };
        Inode {
            ino: Ino(ino),
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 1,
            gid: 1,
            nlink,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            host_ctime: Some(time),
            parent: None,
            body: Body::File { layer: layer() },
            fallback,
            xattrs: Xattrs::new(),
            applied: Some(Applied { key: RequestKey { epoch: 1, unique: 2 }, result: Ino(ino) }),
        }
    }

    /// A layer in which `rename new old` replaced node 10 by node 11, whose bytes may be lost, and node 12 was
    /// copied up; then whatever `end` does.
    fn crashed(dir: &Path, end: impl FnOnce(&mut Catalog)) -> (Catalog, WorkingFiles) {
        let files = WorkingFiles::create(dir).unwrap();
        let mut catalog = Catalog::create(dir).unwrap();
        catalog.begin_use(EARLIER).unwrap();
        let mut commit = Commit::new();
        // Unless a test says otherwise, the directory is removed, so that no name in it can be given back.
        let directory = Inode { kind: FileKind::Directory, body: Body::None, ..file(DIR.0, 0, None) };
        commit.put(directory);
        commit.put(file(10, 0, None)).put(file(11, 1, None)).put(file(12, 1, Some(blob())));
        commit.push(Effect::AddOrphan { ino: Ino(10), since: None });
        let name = b"name".to_vec();
        commit.push(Effect::PutName {
            parent: DIR,
            name: name.clone(),
            ino: Ino(11),
            kind: FileKind::Regular,
        });
        let from = (DIR, b"moved".to_vec());
        commit.push(Effect::Unsettle(Unsettled { parent: DIR, name, old: Ino(10), source: Ino(11), from }));
        catalog.commit(&commit).unwrap();
        for ino in [10, 11, 12] {
            files.make_file(Ino(ino)).unwrap();
        }
        end(&mut catalog);
        (catalog, files)
    }

    fn name(catalog: &Catalog) -> Ino {
        match catalog.name(DIR, b"name").unwrap() {
            Some(NameRow::Node { ino, .. }) => ino,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn after_a_power_cut_a_replaced_name_has_its_old_file_and_a_copy_its_source() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut catalog, files) = crashed(dir.path(), |_| {});
        assert!(recover(layer(), &mut catalog, &files, NOW).unwrap());
        assert_eq!(name(&catalog), Ino(10));
        assert_eq!(catalog.inode(Ino(10)).unwrap().unwrap().nlink, 1);
        assert_eq!(catalog.inode(Ino(11)).unwrap().unwrap().nlink, 0);
        assert_eq!(catalog.orphans().collect::<Vec<_>>(), [Ino(11)]);
        assert_eq!(catalog.unsettled().unwrap(), []);
        let copied = catalog.inode(Ino(12)).unwrap().unwrap();
        assert_eq!((copied.body, copied.fallback), (blob(), None));
        assert_eq!(catalog.with_fallback().unwrap(), []);
        assert!(files.open_file(Ino(10), false).unwrap().is_some(), "the old file's bytes");
        assert!(files.open_file(Ino(12), false).unwrap().is_none(), "a copy that does not count");
        // Doing it again, as after a second cut in the middle, changes nothing.
        assert!(recover(layer(), &mut catalog, &files, "boot-3").unwrap());
        assert_eq!(name(&catalog), Ino(10));
    }

    #[test]
    fn after_a_power_cut_a_file_that_replaced_another_has_its_own_name_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut catalog, files) = crashed(dir.path(), |_| {});
        let mut commit = Commit::new();
        let directory = Inode { kind: FileKind::Directory, body: Body::None, ..file(DIR.0, 2, None) };
        commit.put(directory).push(Effect::Whiteout { parent: DIR, name: b"moved".to_vec() });
        catalog.commit(&commit).unwrap();
        assert!(recover(layer(), &mut catalog, &files, NOW).unwrap());
        assert_eq!(name(&catalog), Ino(10));
        let moved = NameRow::Node { ino: Ino(11), kind: FileKind::Regular };
        assert_eq!(catalog.name(DIR, b"moved").unwrap(), Some(moved));
        assert_eq!(catalog.inode(Ino(11)).unwrap().unwrap().nlink, 1);
        assert_eq!(catalog.orphans().count(), 0);
    }

    #[test]
    fn the_death_of_processes_loses_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut catalog, files) = crashed(dir.path(), |_| {});
        assert!(!recover(layer(), &mut catalog, &files, EARLIER).unwrap(), "files may still be volatile");
        assert_eq!(name(&catalog), Ino(11));
        assert_eq!(catalog.inode(Ino(12)).unwrap().unwrap().body, Body::File { layer: layer() });
        assert_eq!(catalog.unsettled().unwrap().len(), 1);
    }

    #[test]
    fn an_orderly_end_needs_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut catalog, files) = crashed(dir.path(), |catalog| catalog.end_use().unwrap());
        assert!(recover(layer(), &mut catalog, &files, NOW).unwrap());
        assert_eq!(name(&catalog), Ino(11));
    }

    /// Whether the disk has the old file or the new one is for the file system to say.
    #[test]
    fn a_large_file_that_became_whole_just_before_is_what_was_durable_of_it() {
        for is_new in [false, true] {
            let dir = tempfile::TempDir::new().unwrap();
            let mut durable = Coverage::none(1 << 20, 4096);
            durable.claim(&(0..4096));
            let (blob, size) = (ObjectId::from_bytes([6; 32]), 1 << 20);
            let patch = Patch { layer: layer(), blob, size, holes: None, durable: durable.clone() };
            let patched = Body::Patched(Box::new(patch));
            let (mut catalog, files) = crashed(dir.path(), |catalog| {
                let mut commit = Commit::new();
                commit.put(file(13, 1, Some(patched.clone())));
                catalog.commit(&commit).unwrap();
            });
            let mut found = durable.clone();
            found.claim(&(8192..8193));
            let found = if is_new { found.whole() } else { found };
            let host = files.make_file(Ino(13)).unwrap();
            host.set_len(1 << 20).unwrap();
            found.write(&host).unwrap();
            assert!(recover(layer(), &mut catalog, &files, NOW).unwrap());
            let row = catalog.inode(Ino(13)).unwrap().unwrap();
            assert_eq!((row.body, row.fallback), (patched, None));
            let host = files.open_patched(Ino(13), false).unwrap();
            assert_eq!(Coverage::read(&host).unwrap(), Some(durable));
        }
    }

    #[test]
    fn a_catalog_of_another_format_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("catalog.db");
        drop(Catalog::create(dir.path()).unwrap());
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute("UPDATE meta SET value = 99 WHERE key = 'format'", [])
            .unwrap();
        let refused = |result: Result<Catalog>| {
            matches!(result, Err(ViewError::CatalogFormat { found: Some(99), known: 3 }))
        };
        assert!(refused(Catalog::open_upper(dir.path())));
        assert!(refused(Catalog::open_frozen(dir.path())));
    }
}
