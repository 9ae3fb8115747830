//! Named points at which workers die in tests.

/// Points that a mutation of a small file does not come by, and that have tests of their own: those before the mount is ready, of a
/// freeze, a snapshot, layers that are made one or done without, and of large files; and a directory is closed by no kernel that can be
/// taken over, while the log is brought into its file, and a journal removed, only now and then.
const APART: [&str; 11] = [
    "fuse.init.",
    "fuse.releasedir.",
    "freeze.",
    "seal.",
    "snapshot.",
    "collapse.",
    "merge.",
    "checkpoint.",
    "patch.",
    "whole.",
    "journal.before-remove",
];

/// Whether a walk over all that mutations come by leaves the point to tests of its own.
pub fn is_apart(point: &str) -> bool {
    APART.iter().any(|prefix| point.starts_with(prefix))
}
