//! What the kernel knows of the process behind a request and does not say in it.

use std::fs;

/// `CAP_FSETID`: may leave set-group bits on files of groups it is not in (capabilities(7)).
const FSETID: u32 = 4;

/// Whether the process may set the set-group bit of a file of group `gid`: being in it, or privileged. A process
/// that is gone or out of sight may not.
pub(crate) fn may_set_group(pid: u32, caller_gid: u32, gid: u32) -> bool {
    caller_gid == gid
        || fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| may(&status, gid))
}

fn may(status: &str, gid: u32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let in_group = field("Groups:").split_whitespace().any(|group| group.parse() == Ok(gid));
    let capabilities = u64::from_str_radix(field("CapEff:").trim(), 16).unwrap_or(0);
    in_group || capabilities >> FSETID & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_capabilities_are_read_from_the_status() {
        let status = "Name:\tsh\nGroups:\t4 27 1000 \nCapEff:\t0000000000000000\n";
        assert!(may(status, 27));
        assert!(!may(status, 7));
        assert!(may("Groups:\t\nCapEff:\t0000000000000010\n", 7));
        assert!(!may("CapEff:\tffffffffffffffef\n", 7));
        assert!(!may("", 7));
    }

    #[test]
    fn a_process_out_of_sight_may_nothing() {
        assert!(!may_set_group(0, 5, 6));
        assert!(may_set_group(0, 5, 5));
    }
}
