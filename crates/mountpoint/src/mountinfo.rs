//! `/proc/self/mountinfo`, see `proc_pid_mountinfo(5)`.

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
        let mut options = self.super_options.as_bytes().split(|&byte| byte == b',');
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix(b"="))
    }

    /// What tells this mount apart from others, as far as the mount table does; see
    /// [`MountIdentity::with_unique_id`].
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &[u8] = br"36 35 0:98 / /mnt/a\040b rw,noatime master:1 shared:7 - fuse.selvedge selvedge:main rw,user_id=1000,group_id=1000,default_permissions";

    #[test]
    fn a_line_is_taken_apart() {
        let entry = MountEntry::parse(LINE).unwrap();
        assert_eq!((entry.mount_id, entry.parent_id), (36, 35));
        assert_eq!(entry.device, Device { major: 0, minor: 98 });
        assert_eq!(entry.mount_point, Path::new("/mnt/a b"));
        assert_eq!((entry.thread(), entry.user_id()), (Some(&b"main"[..]), Some(1000)));
        assert!(entry.is_selvedge() && entry.is_fuse());
        assert!(entry.has_option("noatime") && entry.has_option("default_permissions"));
        assert!(!entry.has_option("default"));
    }

    #[test]
    fn optional_fields_may_be_missing_and_the_source_empty() {
        let entry = MountEntry::parse(b"1 2 8:1 /sub / ro - ext4  rw").unwrap();
        assert_eq!(entry.source, "");
        assert_eq!(entry.root, Path::new("/sub"));
        assert!(!entry.is_fuse());
    }

    #[test]
    fn a_hostile_source_stays_within_its_field() {
        let line =
            br"1 2 0:5 / /m rw - fuse.selvedge selvedge:x\012\04036\04035\134\033[31m rw,user_id=7,user_id=0";
        let entry = MountEntry::parse(line).unwrap();
        assert_eq!(entry.thread(), Some(&b"x\n 36 35\\\x1b[31m"[..]));
        assert_eq!(entry.user_id(), Some(7));
        assert_eq!(parse_all(line).len(), 1);
    }

    #[test]
    fn other_fuse_types_are_told_apart() {
        let entry =
            |kind: &str| MountEntry::parse(format!("1 2 0:5 / /m rw - {kind} s rw").as_bytes()).unwrap();
        assert!(entry("fuse").is_fuse() && entry("fuseblk").is_fuse() && entry("fuse.sshfs").is_fuse());
        assert!(!entry("fusectl").is_fuse() && !entry("fuse.sshfs").is_selvedge());
        assert!(!entry("fuse.selvedge2").is_selvedge());
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out() {
        for line in [
            "",
            "1",
            "1 2 0:5 / /m rw",
            "x 2 0:5 / /m rw - t s o",
            "1 2 05 / /m rw - t s o",
            "+1 2 0:5 / /m rw - t s o",
            "1 2 0:5 / /m rw - t",
            "99999999999999999999 2 0:5 / /m rw - t s o",
        ] {
            assert_eq!(MountEntry::parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse_all(&[b"nonsense\n", LINE, b"\n"].concat()).len(), 1);
    }

    #[test]
    fn the_live_table_has_a_root() {
        assert!(at(Path::new("/")).unwrap().iter().any(|entry| entry.fs_type != "fuse.selvedge"));
    }

    /// As the kernel writes it: `fs/proc_namespace.c` escapes these bytes.
    fn kernel_escape(text: &[u8]) -> Vec<u8> {
        let mut escaped = Vec::new();
        for &byte in text {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => escaped.extend(format!("\\{byte:03o}").bytes()),
                byte => escaped.push(byte),
            }
        }
        escaped
    }

    proptest! {
        #[test]
        fn any_text_survives_the_kernels_escapes(
            path in proptest::collection::vec(1u8.., 0..40),
            source in proptest::collection::vec(1u8.., 0..40),
        ) {
            let line = [
                &b"36 35 0:98 / "[..], &kernel_escape(&path), b" rw - fuse.selvedge ", &kernel_escape(&source), b" rw",
            ].concat();
            let entry = &parse_all(&line)[0];
            prop_assert_eq!(entry.mount_point.as_os_str().as_bytes(), &path[..]);
            prop_assert_eq!(entry.source.as_bytes(), &source[..]);
        }

        #[test]
        fn no_table_makes_the_parser_panic(table in proptest::collection::vec(any::<u8>(), 0..400)) {
            for entry in parse_all(&table) {
                let _ = (entry.user_id(), entry.thread(), entry.is_fuse(), entry.has_option("x"));
            }
        }
    }
}
