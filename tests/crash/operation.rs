//! What a writer does: chosen at random, done to the mount, done to the model.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use crate::model::{Body, Model, Node, XATTR};
use crate::random::Random;

/// One change, which is one system call once the file is open.
#[derive(Clone)]
pub(crate) enum Operation {
    Create(String),
    Write { name: String, offset: usize, data: Vec<u8> },
    Truncate { name: String, length: usize },
    Punch { name: String, offset: usize, length: usize },
    Sync(String),
    Rename { from: String, to: String },
    Link { from: String, to: String },
    Remove(String),
    MakeDirectory(String),
    RemoveDirectory(String),
    Symlink { name: String, target: String },
    MakeFifo(String),
    Chmod { name: String, mode: u32 },
    SetXattr { name: String, value: Vec<u8> },
    RemoveXattr(String),
    Look(String),
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write { name, offset, data } => write!(f, "Write({name}, {} at {offset})", data.len()),
            Self::Create(name) => write!(f, "Create({name})"),
            Self::Truncate { name, length } => write!(f, "Truncate({name}, {length})"),
            Self::Punch { name, offset, length } => write!(f, "Punch({name}, {length} at {offset})"),
            Self::Sync(name) => write!(f, "Sync({name})"),
            Self::Rename { from, to } => write!(f, "Rename({from}, {to})"),
            Self::Link { from, to } => write!(f, "Link({from}, {to})"),
            Self::Remove(name) => write!(f, "Remove({name})"),
            Self::MakeDirectory(name) => write!(f, "MakeDirectory({name})"),
            Self::RemoveDirectory(name) => write!(f, "RemoveDirectory({name})"),
            Self::Symlink { name, target } => write!(f, "Symlink({name}, {target})"),
            Self::MakeFifo(name) => write!(f, "MakeFifo({name})"),
            Self::Chmod { name, mode } => write!(f, "Chmod({name}, {mode:o})"),
            Self::SetXattr { name, value } => write!(f, "SetXattr({name}, {} bytes)", value.len()),
            Self::RemoveXattr(name) => write!(f, "RemoveXattr({name})"),
            Self::Look(name) => write!(f, "Look({name})"),
        }
    }
}

/// The longest file, in bytes.
const LONGEST: usize = 200_000;

/// Directories that are always there.
const DIRECTORIES: [&str; 2] = ["", "sub/"];

fn file(body: &Body) -> bool {
    matches!(body, Body::File(_))
}

fn pick(random: &mut Random, from: &[&str]) -> Option<String> {
    (!from.is_empty()).then(|| from[random.below(from.len())].to_owned())
}

/// A name that may be taken or not; kinds of nodes do not share names, so that no rename mixes them.
fn some_name(random: &mut Random, kind: &str) -> String {
    format!("{}{kind}{}", DIRECTORIES[random.below(DIRECTORIES.len())], random.below(6))
}

impl Operation {
    /// The next change for a directory that holds `model`.
    pub(crate) fn choose(random: &mut Random, model: &Model) -> Self {
        loop {
            let operation = Self::propose(random, model);
            if let Some(operation) = operation.filter(|operation| operation.makes_sense(model)) {
                return operation;
            }
        }
    }

    fn propose(random: &mut Random, model: &Model) -> Option<Self> {
        let files = model.names_of(file);
        Some(match random.below(22) {
            0..=1 => Self::Create(some_name(random, "f")),
            2..=6 => {
                let name = pick(random, &files)?;
                let length = [1 + random.below(300), 4096, 1 + random.below(40_000)][random.below(3)];
                let offset = random.below(LONGEST - length);
                Self::Write { name, offset, data: random.bytes(length) }
            }
            7 => Self::Truncate { name: pick(random, &files)?, length: random.below(LONGEST) },
            8 => Self::Sync(pick(random, &files)?),
            9..=10 => Self::Rename { from: pick(random, &files)?, to: some_name(random, "f") },
            11 => Self::Link { from: pick(random, &files)?, to: some_name(random, "f") },
            12 => Self::Remove(pick(random, &model.names_of(|body| *body != Body::Directory))?),
            13 => Self::MakeDirectory(some_name(random, "d")),
            14 => Self::RemoveDirectory(some_name(random, "d")),
            15 => Self::Symlink { name: some_name(random, "l"), target: some_name(random, "f") },
            16 => Self::MakeFifo(some_name(random, "p")),
            17 => Self::Chmod {
                name: pick(random, &files)?,
                mode: 0o600 | u32::try_from(random.below(64)).ok()?,
            },
            18 => {
                let length = random.below(200);
                Self::SetXattr { name: pick(random, &files)?, value: random.bytes(length) }
            }
            19 => Self::RemoveXattr(pick(random, &files)?),
            20 => {
                let length = 1 + random.below(40_000);
                Self::Punch { name: pick(random, &files)?, offset: random.below(LONGEST), length }
            }
            _ => Self::Look(pick(random, &model.names_of(|_| true))?),
        })
    }

    fn makes_sense(&self, model: &Model) -> bool {
        match self {
            Self::Create(name)
            | Self::MakeDirectory(name)
            | Self::Symlink { name, .. }
            | Self::MakeFifo(name)
            | Self::Link { to: name, .. } => !model.names.contains_key(name),
            Self::RemoveDirectory(name) => model.names.contains_key(name),
            Self::RemoveXattr(name) => model.get(name).is_some_and(|node| node.xattr.is_some()),
            // Two names of one file: rename(2) then does nothing.
            Self::Rename { from, to } => model.names.get(from) != model.names.get(to),
            _ => true,
        }
    }

    /// Does it beneath `directory`. A write may be done in part; then the rest is returned.
    pub(crate) fn perform(&self, directory: &OwnedFd) -> Result<Option<Self>, Errno> {
        let open = |name: &str, flags: OFlags| {
            rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o640))
        };
        match self {
            Self::Create(name) => open(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map(drop),
            Self::Write { name, offset, data } => {
                let written = rustix::io::pwrite(open(name, OFlags::WRONLY)?, data, *offset as u64)?;
                let rest = || data[written..].to_vec();
                return Ok((written < data.len()).then(|| Self::Write {
                    name: name.clone(),
                    offset: offset + written,
                    data: rest(),
                }));
            }
            Self::Truncate { name, length } => {
                rustix::fs::ftruncate(open(name, OFlags::WRONLY)?, *length as u64)
            }
            Self::Punch { name, offset, length } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let file = open(name, OFlags::WRONLY)?;
                rustix::fs::fallocate(file, flags, *offset as u64, *length as u64)
            }
            Self::Sync(name) => rustix::fs::fsync(open(name, OFlags::WRONLY)?),
            Self::Rename { from, to } => rustix::fs::renameat(directory, from, directory, to),
            Self::Link { from, to } => rustix::fs::linkat(directory, from, directory, to, AtFlags::empty()),
            Self::Remove(name) => rustix::fs::unlinkat(directory, name, AtFlags::empty()),
            Self::MakeDirectory(name) => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)),
            Self::RemoveDirectory(name) => rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR),
            Self::Symlink { name, target } => rustix::fs::symlinkat(target, directory, name),
            Self::MakeFifo(name) => {
                rustix::fs::mknodat(directory, name, FileType::Fifo, Mode::from_raw_mode(0o644), 0)
            }
            Self::Chmod { name, mode } => {
                rustix::fs::chmodat(directory, name, Mode::from_raw_mode(*mode), AtFlags::empty())
            }
            Self::SetXattr { name, value } => {
                rustix::fs::fsetxattr(open(name, OFlags::RDONLY)?, XATTR, value, XattrFlags::empty())
            }
            Self::RemoveXattr(name) => rustix::fs::fremovexattr(open(name, OFlags::RDONLY)?, XATTR),
            Self::Look(name) => look(directory, name),
        }?;
        Ok(None)
    }

    /// What of a write has been done when `rest` has not.
    pub(crate) fn without(&self, rest: &Self) -> Self {
        match (self, rest) {
            (Self::Write { name, offset, data }, Self::Write { data: rest, .. }) => {
                let done = data[..data.len() - rest.len()].to_vec();
                Self::Write { name: name.clone(), offset: *offset, data: done }
            }
            _ => self.clone(),
        }
    }

    /// Does it to the model.
    pub(crate) fn apply(&self, model: &mut Model) {
        match self {
            Self::Create(name) => model.add(name, 0o640, Body::File(Vec::new())),
            Self::Write { name, offset, data } => {
                let content = content(model, name);
                let end = offset + data.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(data);
            }
            Self::Truncate { name, length } => content(model, name).resize(*length, 0),
            Self::Punch { name, offset, length } => {
                let content = content(model, name);
                let end = content.len().min(offset + length);
                content[(*offset).min(end)..end].fill(0);
            }
            Self::Sync(_) | Self::Look(_) => {}
            Self::Rename { from, to } => {
                let number = model.names[from];
                model.remove(to);
                model.names.insert(to.clone(), number);
                model.names.remove(from);
            }
            Self::Link { from, to } => {
                let number = model.names[from];
                model.names.insert(to.clone(), number);
            }
            Self::Remove(name) | Self::RemoveDirectory(name) => model.remove(name),
            Self::MakeDirectory(name) => model.add(name, 0o755, Body::Directory),
            Self::Symlink { name, target } => model.add(name, 0o777, Body::Link(target.clone().into_bytes())),
            Self::MakeFifo(name) => model.add(name, 0o644, Body::Fifo),
            Self::Chmod { name, mode } => node(model, name).mode = *mode,
            Self::SetXattr { name, value } => node(model, name).xattr = Some(value.clone()),
            Self::RemoveXattr(name) => node(model, name).xattr = None,
        }
    }
}

fn node<'model>(model: &'model mut Model, name: &str) -> &'model mut Node {
    model.get_mut(name).expect("the name was chosen from the model")
}

fn content<'model>(model: &'model mut Model, name: &str) -> &'model mut Vec<u8> {
    match &mut node(model, name).body {
        Body::File(content) => content,
        other => panic!("{name} is {other:?}"),
    }
}

/// Asks about things, which must change nothing.
fn look(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    let mut room = [0_u8; 4096];
    rustix::fs::fstatvfs(directory)?;
    let listing = rustix::fs::openat(
        directory,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in rustix::fs::Dir::read_from(&listing)? {
        entry?;
    }
    rustix::fs::fsync(&listing)?;
    let meta = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(meta.st_mode) {
        FileType::Symlink => drop(rustix::fs::readlinkat(directory, name, Vec::new())?),
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
            rustix::fs::flistxattr(file.as_fd(), &mut room[..])?;
            rustix::io::pread(&file, &mut room, 0)?;
            match rustix::fs::seek(&file, SeekFrom::Data(0)) {
                Ok(_) | Err(Errno::NXIO) => {}
                Err(errno) => return Err(errno),
            }
        }
        _ => {}
    }
    Ok(())
}
