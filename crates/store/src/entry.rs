//! What a directory keeps under a name.

use crate::codec::{Reader, Writer};
use crate::{DecodeError, FileKind, Ino, ObjectId, Timestamp, Xattrs};

/// The permission, set-id and sticky bits of a mode; the kind stands elsewhere.
pub const MODE_BITS: u32 = 0o7777;

/// The longest symlink target, in bytes: `PATH_MAX` without its NUL.
const MAX_TARGET: usize = 4095;

/// The largest file, in bytes: what `off_t` can express.
const MAX_SIZE: u64 = i64::MAX.unsigned_abs();

/// What every file has, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Its number. Entries with one number are hard links to one file.
    pub ino: Ino,
    /// Permission bits, within [`MODE_BITS`].
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// How many names it has inside this snapshot; for a directory, 2 and one for each
    /// subdirectory.
    pub nlink: u32,
    /// When its content changed last.
    pub mtime: Timestamp,
    /// When anything about it changed last.
    pub ctime: Timestamp,
    /// Extended attributes, POSIX ACLs included.
    pub xattrs: Xattrs,
}

/// What is particular to a kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// A regular file.
    Regular {
        /// Its bytes; also its content id.
        blob: ObjectId,
        /// How many.
        size: u64,
        /// Where its holes are, when it has any.
        holes: Option<ObjectId>,
    },
    /// A directory.
    Directory {
        /// Its names.
        tree: ObjectId,
        /// Its content id: what is beneath it, without inode numbers, times and link counts.
        digest: ObjectId,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, 1–4095 bytes.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// The name of a Unix socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Its number, as `st_rdev` has it.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// Its number, as `st_rdev` has it.
        rdev: u64,
    },
}

impl Content {
    /// The kind of file.
    pub const fn kind(&self) -> FileKind {
        match self {
            Self::Regular { .. } => FileKind::Regular,
            Self::Directory { .. } => FileKind::Directory,
            Self::Symlink { .. } => FileKind::Symlink,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
            Self::CharDevice { .. } => FileKind::CharDevice,
            Self::BlockDevice { .. } => FileKind::BlockDevice,
        }
    }
}

/// What a directory keeps under a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What every file has.
    pub meta: Meta,
    /// What is particular to its kind.
    pub content: Content,
}

impl Entry {
    /// The kind of file.
    pub const fn kind(&self) -> FileKind {
        self.content.kind()
    }

    /// The size in bytes: of a file's content or a symlink's target; 0 for the rest.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Regular { size, .. } => *size,
            Content::Symlink { target } => target.len() as u64,
            _ => 0,
        }
    }

    /// The device number; 0 for what is no device.
    pub const fn rdev(&self) -> u64 {
        match self.content {
            Content::CharDevice { rdev } | Content::BlockDevice { rdev } => rdev,
            _ => 0,
        }
    }

    /// Kind, number, metadata, content, in this order: what follows the name in a tree.
    pub(crate) fn write(&self, out: &mut Writer) -> Result<(), DecodeError> {
        out.byte(self.kind().code());
        out.number(self.meta.ino.0);
        self.write_ownership(out)?;
        out.number(self.meta.nlink.into());
        out.time(self.meta.mtime)?;
        out.time(self.meta.ctime)?;
        self.meta.xattrs.write(out)?;
        self.write_content(out)
    }

    fn write_ownership(&self, out: &mut Writer) -> Result<(), DecodeError> {
        if self.meta.mode & !MODE_BITS != 0 {
            return Err(DecodeError::Range("a mode"));
        }
        out.number(self.meta.mode.into());
        out.number(self.meta.uid.into());
        out.number(self.meta.gid.into());
        Ok(())
    }

    fn write_content(&self, out: &mut Writer) -> Result<(), DecodeError> {
        match &self.content {
            Content::Regular { blob, size, holes } => {
                if *size > MAX_SIZE {
                    return Err(DecodeError::Range("a size"));
                }
                out.id(blob);
                out.number(*size);
                out.byte(u8::from(holes.is_some()));
                if let Some(holes) = holes {
                    out.id(holes);
                }
            }
            Content::Directory { tree, digest } => {
                out.id(tree);
                out.id(digest);
            }
            Content::Symlink { target } => {
                check_target(target)?;
                out.bytes(target);
            }
            Content::Fifo | Content::Socket => {}
            Content::CharDevice { rdev } | Content::BlockDevice { rdev } => out.number(*rdev),
        }
        Ok(())
    }

    /// What a directory's content id covers: everything but numbers, times and link counts. Holes
    /// are left out as well, for they do not change what is read.
    pub(crate) fn write_for_digest(&self, out: &mut Writer) -> Result<(), DecodeError> {
        out.byte(self.kind().code());
        self.write_ownership(out)?;
        self.meta.xattrs.write(out)?;
        match &self.content {
            Content::Regular { blob, .. } => out.id(blob),
            Content::Directory { digest, .. } => out.id(digest),
            Content::Symlink { .. }
            | Content::Fifo
            | Content::Socket
            | Content::CharDevice { .. }
            | Content::BlockDevice { .. } => self.write_content(out)?,
        }
        Ok(())
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (kind, ino) = Self::read_head(input)?;
        let mode = read_mode(input)?;
        let uid = input.number32("a user")?;
        let gid = input.number32("a group")?;
        let nlink = input.number32("a link count")?;
        let mtime = input.time()?;
        let ctime = input.time()?;
        let xattrs = Xattrs::read(input)?;
        let content = read_content(input, kind)?;
        Ok(Self { meta: Meta { ino, mode, uid, gid, nlink, mtime, ctime, xattrs }, content })
    }

    /// Kind and number only.
    pub(crate) fn read_head(input: &mut Reader<'_>) -> Result<(FileKind, Ino), DecodeError> {
        let kind = FileKind::from_code(input.byte()?).ok_or(DecodeError::Range("a kind"))?;
        Ok((kind, Ino(input.number()?)))
    }

    /// Checks an entry and passes over it without keeping anything.
    pub(crate) fn skip(input: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (kind, _) = Self::read_head(input)?;
        read_mode(input)?;
        input.number32("a user")?;
        input.number32("a group")?;
        input.number32("a link count")?;
        input.time()?;
        input.time()?;
        Xattrs::skip(input)?;
        skip_content(input, kind)
    }
}

fn read_mode(input: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let mode = input.number32("a mode")?;
    if mode & !MODE_BITS == 0 { Ok(mode) } else { Err(DecodeError::Range("a mode")) }
}

fn read_content(input: &mut Reader<'_>, kind: FileKind) -> Result<Content, DecodeError> {
    Ok(match kind {
        FileKind::Regular => {
            let (blob, size, holes) = read_regular(input)?;
            Content::Regular { blob, size, holes }
        }
        FileKind::Directory => Content::Directory { tree: input.id()?, digest: input.id()? },
        FileKind::Symlink => Content::Symlink { target: read_target(input)?.to_vec() },
        FileKind::Fifo => Content::Fifo,
        FileKind::Socket => Content::Socket,
        FileKind::CharDevice => Content::CharDevice { rdev: input.number()? },
        FileKind::BlockDevice => Content::BlockDevice { rdev: input.number()? },
    })
}

fn skip_content(input: &mut Reader<'_>, kind: FileKind) -> Result<(), DecodeError> {
    match kind {
        FileKind::Symlink => read_target(input).map(drop),
        // The rest allocates nothing.
        _ => read_content(input, kind).map(drop),
    }
}

fn read_regular(input: &mut Reader<'_>) -> Result<(ObjectId, u64, Option<ObjectId>), DecodeError> {
    let blob = input.id()?;
    let size = input.number()?;
    if size > MAX_SIZE {
        return Err(DecodeError::Range("a size"));
    }
    let holes = match input.byte()? {
        0 => None,
        1 => Some(input.id()?),
        _ => return Err(DecodeError::Range("a hole marker")),
    };
    Ok((blob, size, holes))
}

fn read_target<'a>(input: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let target = input.bytes(MAX_TARGET)?;
    check_target(target)?;
    Ok(target)
}

fn check_target(target: &[u8]) -> Result<(), DecodeError> {
    if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
        return Err(DecodeError::Range("a symlink's target"));
    }
    Ok(())
}
