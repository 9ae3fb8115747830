//! `/proc/self/mountinfo`, see proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::escape::unescape;
use crate::{Device, FS_TYPE, MountIdentity, SOURCE_PREFIX};

/// One line of the mount table. Any user can make a mount of any FUSE type with any source text, so text from
/// here is printed through [`escape_for_print`](crate::escape_for_print).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's number; reused once the mount is gone.
    pub mount_id: u64,
    /// The number of the mount it is mounted on.
    pub parent_id: u64,
    /// The device number (`st_dev`) of its files.
    pub device: Device,
    /// The directory of the file system that is this mount's root.
    pub root: PathBuf,
    /// Where it is mounted, seen from this process's root directory.
    pub mount_point: PathBuf,
    /// Options of this mount, separated by commas.
    pub options: OsString,
    /// File-system type, with subtype: `fuse.selvedge`.
    pub fs_type: OsString,
    /// What is mounted: for ours `selvedge:THREAD`.
    pub source: OsString,
    /// Options of the file system, separated by commas.
    pub super_options: OsString,
}

impl MountEntry {
    /// Reads one line, without its line end; `None` if it is not in the kernel's format.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let mount_id = number(fields.next()?)?;
        let parent_id = number(fields.next()?)?;
        let device = fields.next()?;
        let colon = device.iter().position(|&byte| byte == b':')?;
        let device = Device { major: number(&device[..colon])?, minor: number(&device[colon + 1..])? };
        let root = text(fields.next()?).into();
        let mount_point = text(fields.next()?).into();
        let options = text(fields.next()?);
        // Any number of optional fields, ended by a lone hyphen.
        fields.find(|field| *field == b"-")?;
        let fs_type = text(fields.next()?);
        // The kernel leaves the source empty if the mounter did.
        let source = text(fields.next()?);
        let super_options = text(fields.next()?);
        Some(Self { mount_id, parent_id, device, root, mount_point, options, fs_type, source, super_options })
    }

    /// Whether it is of the type that our mounts have. That alone does not make it ours.
    pub fn is_selvedge(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Whether it is served by some FUSE server.
    pub fn is_fuse(&self) -> bool {
        let fs_type = self.fs_type.as_bytes();
        [&b"fuse"[..], b"fuseblk"].iter().any(|kind| {
            fs_type.strip_prefix(*kind).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
        })
    }

    /// The thread that its source names, if it has our form.
    pub fn thread(&self) -> Option<&[u8]> {
        self.source.as_bytes().strip_prefix(SOURCE_PREFIX.as_bytes())
    }

    /// The user that a FUSE mount belongs to (`user_id=`).
    pub fn user_id(&self) -> Option<u32> {
        self.super_option(b"user_id").and_then(number)
    }

    /// Whether one of the comma-separated options of the mount or of the file system is exactly `name`.
    pub fn has_option(&self, name: &str) -> bool {
        [&self.options, &self.super_options].iter().any(|options| {
            options.as_bytes().split(|&byte| byte == b',').any(|option| option == name.as_bytes())
        })
    }

    /// The value of the first file-system option `name=value`. FUSE writes `user_id=` before anything that a
    /// mounter can choose, so the first is the kernel's.
    fn super_option(&self, name: &[u8]) -> Option<&[u8]> {
        let options = self.super_options.as_bytes().split(|&byte| byte == b',');
        options.filter_map(|option| option.strip_prefix(name)?.strip_prefix(b"=")).next()
    }

    /// What tells this mount apart from others.
    pub fn identity(&self) -> MountIdentity {
        MountIdentity {
            mount_id: self.mount_id,
            unique_id: None,
            device: self.device,
            path: self.mount_point.clone(),
        }
    }
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    // `parse` would take a plus sign, which the kernel does not write.
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(bytes).ok()?.parse().ok()).flatten()
}

fn text(bytes: &[u8]) -> OsString {
    OsString::from_vec(unescape(bytes))
}

/// The mounts of this process's mount namespace, in mount order. Lines that cannot be read are left out.
pub fn read() -> io::Result<Vec<MountEntry>> {
    read_from(Path::new("/proc/self/mountinfo"))
}

/// The mounts that another process sees: `path` is its `/proc/PID/mountinfo`.
pub fn read_from(path: &Path) -> io::Result<Vec<MountEntry>> {
    Ok(parse_all(&fs::read(path)?))
}

/// All readable lines of a mount table.
pub fn parse_all(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&byte| byte == b'\n').filter_map(MountEntry::parse).collect()
}

/// The mounts on exactly `path` (absolute, without symbolic links), the uppermost last.
pub fn at(path: &Path) -> io::Result<Vec<MountEntry>> {
    Ok(read()?.into_iter().filter(|entry| entry.mount_point == path).collect())
}

/// The entry with this number.
pub fn by_id(mount_id: u64) -> io::Result<Option<MountEntry>> {
    Ok(read()?.into_iter().find(|entry| entry.mount_id == mount_id))
}
