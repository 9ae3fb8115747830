//! How to mount.

/// What the mount shall be like. The default is the careful one: changes allowed, for the mounting user alone,
/// without set-user-id programs and devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent mount option")]
pub struct MountOptions {
    /// The thread's name, for the mount's source `selvedge:THREAD`.
    pub thread: String,
    /// Refuse changes.
    pub read_only: bool,
    /// Let other users in, as far as permissions allow.
    pub allow_other: bool,
    /// Let set-user-id and set-group-id bits take effect. Unprivileged mounts never do.
    pub suid: bool,
    /// Let device files work. Unprivileged mounts never do.
    pub dev: bool,
}
