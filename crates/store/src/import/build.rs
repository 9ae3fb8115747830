//! From what was captured to trees and a snapshot.

use super::capture::Captured;
use super::numbers::Numbers;
use super::scan::{Directory, Named, Scan};
use super::{ImportError, Shared};
use crate::beneath::join;
use crate::{Content, Entry, FileKind, Ino, Meta, TreeBuilder};
use std::collections::{HashMap, HashSet};

/// The root's entry and the sum of all files.
pub(super) struct Built {
    pub(super) root: Entry,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Encodes and keeps the trees, children before parents.
pub(super) fn build(
    shared: &Shared<'_>,
    numbers: &mut Numbers<'_>,
    scan: &mut Scan,
) -> Result<Built, ImportError> {
    let mut files = std::mem::take(&mut scan.files);
    unify_links(&mut files);
    files.sort_unstable_by(|a, b| (a.directory, &a.name).cmp(&(b.directory, &b.name)));
    let directory_numbers = number_directories(numbers, &scan.directories)?;
    let nlinks = count_links(&files);
    let (mut root, mut names, mut bytes) = (None, 0, 0);
    let mut counted = HashSet::new();
    let mut builders: HashMap<usize, (TreeBuilder, u32)> = HashMap::new();
    for (position, directory) in scan.directories.iter().enumerate().rev() {
        let Some(captured) = &directory.captured else { continue };
        let (mut builder, subdirectories) = builders.remove(&position).unwrap_or_default();
        while let Some(file) = files.pop_if(|file| file.directory == position) {
            let Some(entry) = file_entry(numbers, &nlinks, &file)? else { continue };
            if counted.insert(entry.meta.ino) && entry.kind() == FileKind::Regular {
                bytes += entry.size();
            }
            names += 1;
            builder.push(&file.name, entry);
        }
        let tree = builder.finish().map_err(|error| ImportError::Unsupported {
            path: shared.absolute(&path_of(&scan.directories, position)),
            reason: error.to_string(),
        })?;
        shared.store.put_tree(&tree)?;
        let content = Content::Directory { tree: tree.id, digest: tree.digest };
        let ino = directory_numbers[position];
        let entry = entry(captured, ino, subdirectories.saturating_add(2), content);
        if position == 0 {
            root = Some(entry);
        } else {
            names += 1;
            let (parent, subdirectories) = builders.entry(directory.parent).or_default();
            parent.push(&directory.name, entry);
            *subdirectories += 1;
        }
    }
    match root {
        Some(root) => Ok(Built { root, files: names, bytes }),
        None => Err(ImportError::Vanished { path: shared.absolute(b"") }),
    }
}

/// Gives all names of one file what one of them was found to be: it may have changed between.
fn unify_links(files: &mut [Named]) {
    let mut first: HashMap<(u64, u64), usize> = HashMap::new();
    for position in 0..files.len() {
        let attributes = &files[position].captured.attributes;
        if attributes.links < 2 {
            continue;
        }
        let original = *first.entry(attributes.file).or_insert(position);
        let (before, rest) = files.split_at_mut(position);
        if let (Some(original), Some(file)) = (before.get(original), rest.first_mut()) {
            file.captured.attributes = original.captured.attributes.clone();
            file.captured.xattrs = original.captured.xattrs.clone();
            file.captured.content.clone_from(&original.captured.content);
        }
    }
}

/// How many names each file has here, for those with several on the host.
fn count_links(files: &[Named]) -> HashMap<(u64, u64), u32> {
    let mut counts = HashMap::new();
    for file in files.iter().filter(|file| file.captured.attributes.links > 1) {
        *counts.entry(file.captured.attributes.file).or_default() += 1;
    }
    counts
}

fn number_directories(numbers: &mut Numbers<'_>, directories: &[Directory]) -> Result<Vec<Ino>, ImportError> {
    let number = |directory: &Directory| match &directory.captured {
        Some(captured) => Ok(numbers.of(captured)?),
        None => Ok(Ino(0)),
    };
    directories.iter().map(number).collect()
}

fn file_entry(
    numbers: &mut Numbers<'_>,
    nlinks: &HashMap<(u64, u64), u32>,
    file: &Named,
) -> Result<Option<Entry>, ImportError> {
    let captured = &file.captured;
    let nlink = match captured.attributes.links {
        0 | 1 => 1,
        _ => nlinks.get(&captured.attributes.file).copied().unwrap_or(1),
    };
    let Some(content) = captured.content.clone() else { return Ok(None) };
    Ok(Some(entry(captured, numbers.of(captured)?, nlink, content)))
}

fn entry(captured: &Captured, ino: Ino, nlink: u32, content: Content) -> Entry {
    let attributes = &captured.attributes;
    Entry {
        meta: Meta {
            ino,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            nlink,
            mtime: attributes.mtime,
            ctime: attributes.ctime,
            xattrs: captured.xattrs.clone(),
        },
        content,
    }
}

fn path_of(directories: &[Directory], mut position: usize) -> Vec<u8> {
    let mut path = Vec::new();
    while position != 0 {
        path = if path.is_empty() {
            directories[position].name.to_vec()
        } else {
            join(&directories[position].name, &path)
        };
        position = directories[position].parent;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::{ObjectId, Timestamp, Xattrs};

    fn named(file: u64, links: u32, byte: u8) -> Named {
        let time = Timestamp { sec: byte.into(), nsec: 0 };
        let attributes = Attributes {
            kind: FileKind::Regular,
            file: (1, file),
            mount: 1,
            mode: 0o644,
            uid: 0,
            gid: 0,
            links,
            size: 1,
            mtime: time,
            ctime: time,
            rdev: 0,
        };
        let content = Content::Regular { blob: ObjectId::from_bytes([byte; 32]), size: 1, holes: None };
        let captured = Captured { attributes, xattrs: Xattrs::new(), kept: None, content: Some(content) };
        Named { directory: 0, name: Box::new([byte]), captured }
    }

    #[test]
    fn a_linked_file_that_changed_between_its_names_is_one_file_still() {
        let mut files = vec![named(7, 2, 1), named(8, 1, 2), named(7, 2, 3)];
        unify_links(&mut files);
        assert_eq!(files[2].captured.content, files[0].captured.content);
        assert_eq!(files[2].captured.attributes, files[0].captured.attributes);
        assert_ne!(files[1].captured.content, files[0].captured.content);
        assert_eq!(count_links(&files), HashMap::from([((1, 7), 2)]));
    }
}
