//! Access control lists as far as a file system has a say in them: what a list and the mode bits make of each
//! other, and what a new node inherits. Who may do what is the kernel's to decide.
//!
//! A list is kept as the extended attribute that carries it, in the form that the kernel and the host have for it:
//! a version, then entries of tag, permissions and id (`linux/posix_acl_xattr.h`, acl(5)).

use crate::error::{Result, ViewError};

/// The extended attribute of the list that counts for the node itself.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of the list that a directory hands down.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// More entries than any host file system keeps.
const MOST_ENTRIES: usize = 8 * 1024;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

const PERMISSIONS: u32 = 0o777;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// An access control list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads a list, and refuses one without owner, group and others, or with a tag nobody knows.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let malformed = || ViewError::Invalid("the access control list is malformed");
        let (version, rest) = bytes.split_at_checked(HEADER).ok_or_else(malformed)?;
        if version != VERSION.to_le_bytes() || rest.len() % ENTRY != 0 || rest.len() / ENTRY > MOST_ENTRIES {
            return Err(malformed());
        }
        let entries: Vec<Entry> = rest
            .chunks_exact(ENTRY)
            .map(|entry| Entry {
                tag: u16::from_le_bytes([entry[0], entry[1]]),
                permissions: u16::from_le_bytes([entry[2], entry[3]]),
                id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
            })
            .collect();
        let count = |tag: u16| entries.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && 3 + named + count(MASK) == entries.len()
            && (named == 0 || count(MASK) == 1)
            && entries.iter().all(|entry| entry.permissions <= 7);
        if known { Ok(Self(entries)) } else { Err(malformed()) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.0.len() * ENTRY);
        bytes.extend(VERSION.to_le_bytes());
        for entry in &self.0 {
            bytes.extend(entry.tag.to_le_bytes());
            bytes.extend(entry.permissions.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// The permission bits that stat(2) shows for a node with this list: of the group class the mask, if there
    /// is one.
    pub(crate) fn mode(&self) -> u32 {
        (self.bits(USER_OBJ) << 6) | (self.bits(self.group_class()) << 3) | self.bits(OTHER)
    }

    /// Whether the mode bits say all that the list does, so that it need not be kept.
    pub(crate) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The list after chmod(2).
    #[must_use]
    pub(crate) fn with_mode(mut self, mode: u32) -> Self {
        let group_class = self.group_class();
        for entry in &mut self.0 {
            if let Some(bits) = class_bits(entry.tag, group_class, mode) {
                entry.permissions = bits;
            }
        }
        self
    }

    /// The list that a node made with `mode` inherits from a directory with this default list: never more than
    /// the mode allows.
    #[must_use]
    pub(crate) fn inherited(mut self, mode: u32) -> Self {
        let group_class = self.group_class();
        for entry in &mut self.0 {
            if let Some(bits) = class_bits(entry.tag, group_class, mode) {
                entry.permissions &= bits;
            }
        }
        self
    }

    fn group_class(&self) -> u16 {
        if self.0.iter().any(|entry| entry.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    fn bits(&self, tag: u16) -> u32 {
        self.0.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.permissions.into())
    }
}

/// The bits of `mode` that stand for the entry, if any do.
fn class_bits(tag: u16, group_class: u16, mode: u32) -> Option<u16> {
    let shift = match tag {
        USER_OBJ => 6,
        OTHER => 0,
        tag if tag == group_class => 3,
        _ => return None,
    };
    u16::try_from((mode >> shift) & 7).ok()
}

/// `mode` with the permission bits of `permissions`.
pub(crate) fn replace_permissions(mode: u32, permissions: u32) -> u32 {
    (mode & !PERMISSIONS) | (permissions & PERMISSIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id }).collect())
    }

    fn extended() -> Acl {
        acl(&[(USER_OBJ, 7, !0), (USER, 6, 1000), (GROUP_OBJ, 5, !0), (MASK, 6, !0), (OTHER, 4, !0)])
    }

    #[test]
    fn the_encoding_is_the_kernels() {
        let bytes = acl(&[(USER_OBJ, 6, !0), (GROUP_OBJ, 4, !0), (OTHER, 0, !0)]).encode();
        let expected = [
            [2, 0, 0, 0].as_slice(),
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[0x20, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(Acl::decode(&extended().encode()).unwrap(), extended());
    }

    #[test]
    fn malformed_lists_are_refused() {
        let good = extended().encode();
        for cut in 0..good.len() {
            assert!(Acl::decode(&good[..cut]).is_err(), "{cut} bytes");
        }
        assert!(Acl::decode(&[&[3, 0, 0, 0], &good[4..]].concat()).is_err());
        let doubled = acl(&[(USER_OBJ, 7, 0), (USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]);
        assert!(Acl::decode(&doubled.encode()).is_err());
        let unmasked = acl(&[(USER_OBJ, 7, 0), (USER, 7, 1), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]);
        assert!(Acl::decode(&unmasked.encode()).is_err());
        let unknown = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0), (0x40, 7, 0)]);
        assert!(Acl::decode(&unknown.encode()).is_err());
        let too_much = acl(&[(USER_OBJ, 8, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]);
        assert!(Acl::decode(&too_much.encode()).is_err());
    }

    #[test]
    fn mode_bits_and_list_follow_each_other() {
        assert_eq!(extended().mode(), 0o764);
        assert!(!extended().is_minimal());
        let changed = extended().with_mode(0o640);
        assert_eq!(changed.mode(), 0o640);
        assert_eq!(changed.bits(GROUP_OBJ), 5, "chmod moves the mask, not the group's own entry");
        let plain = acl(&[(USER_OBJ, 6, !0), (GROUP_OBJ, 4, !0), (OTHER, 0, !0)]);
        assert!(plain.is_minimal());
        assert_eq!(plain.with_mode(0o707).mode(), 0o707);
    }

    #[test]
    fn a_new_node_never_gets_more_than_its_mode() {
        let inherited = extended().inherited(0o620);
        assert_eq!(inherited.mode(), 0o620);
        assert_eq!(inherited.bits(USER), 6);
        assert_eq!(extended().inherited(0o777).mode(), extended().mode());
    }
}
