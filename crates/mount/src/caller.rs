//! What the kernel knows of the process behind a request and does not say in it.

use std::fs;

/// `CAP_FOWNER`: does with any file what its owner may.
const FOWNER: u32 = 3;
/// `CAP_FSETID`: may leave set-group bits on files of groups it is not in (capabilities(7)).
const FSETID: u32 = 4;
/// `CAP_SYS_ADMIN`: sees the `trusted.` attributes (xattr(7)).
const SYS_ADMIN: u32 = 21;

/// Whether the process may set the set-group bit of a file of group `gid`: being in it, or privileged. A process
/// that is gone or out of sight may not.
pub(crate) fn may_set_group(pid: u32, caller_gid: u32, gid: u32) -> bool {
    caller_gid == gid || status(pid).is_some_and(|status| in_group(&status, gid) || has(&status, FSETID))
}

/// Whether the process may do with the file of `owner` what its owner may.
pub(crate) fn may_own(pid: u32, caller_uid: u32, owner: u32) -> bool {
    caller_uid == owner || status(pid).is_some_and(|status| has(&status, FOWNER))
}

/// Whether the process may leave set-id bits on a file whose length it changes.
pub(crate) fn may_set_id(pid: u32) -> bool {
    status(pid).is_some_and(|status| has(&status, FSETID))
}

/// The names of attributes, each with a NUL behind it, that the process may know of.
pub(crate) fn visible(pid: u32, names: Vec<u8>) -> Vec<u8> {
    let is_trusted = |name: &[u8]| name.starts_with(b"trusted.");
    if !names.split(|byte| *byte == 0).any(is_trusted)
        || status(pid).is_some_and(|status| has(&status, SYS_ADMIN))
    {
        return names;
    }
    names.split_inclusive(|byte| *byte == 0).filter(|name| !is_trusted(name)).flatten().copied().collect()
}

fn status(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

fn in_group(status: &str, gid: u32) -> bool {
    field(status, "Groups:").split_whitespace().any(|group| group.parse() == Ok(gid))
}

fn has(status: &str, capability: u32) -> bool {
    u64::from_str_radix(field(status, "CapEff:").trim(), 16).is_ok_and(|bits| bits >> capability & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_capabilities_are_read_from_the_status() {
        let status = "Name:\tsh\nGroups:\t4 27 1000 \nCapEff:\t0000000000000010\n";
        assert!(in_group(status, 27) && !in_group(status, 7));
        assert!(has(status, FSETID) && !has(status, SYS_ADMIN));
        assert!(!in_group("", 0) && !has("", FSETID));
    }

    #[test]
    fn a_process_out_of_sight_may_nothing() {
        assert!(!may_set_group(0, 5, 6));
        assert!(may_set_group(0, 5, 5));
        assert!(!may_own(0, 5, 6) && may_own(0, 5, 5));
        assert_eq!(visible(0, b"trusted.a\0user.b\0".to_vec()), b"user.b\0");
        assert_eq!(visible(0, b"user.b\0".to_vec()), b"user.b\0");
    }
}
