//! The operations the adapter serves, and the crash points around each.

/// One FUSE operation by name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Op {
    /// Its place among all of them.
    pub(crate) index: usize,
    /// Name for logs.
    pub(crate) name: &'static str,
    /// Crash point after the request was read and before the view is called.
    pub(crate) enter: &'static str,
    /// Crash point after the view has answered and before the kernel is told.
    pub(crate) reply: &'static str,
}

macro_rules! operations {
    ($($constant:ident $name:literal)*) => {
        /// Places in [`ALL`].
        #[derive(Clone, Copy)]
        #[expect(clippy::upper_case_acronyms, reason = "named as the constants")]
        enum Place { $($constant,)* }

        /// All operations, each at its index.
        pub(crate) const ALL: &[&Op] = &[$($constant,)*];

        $(
            pub(crate) const $constant: &Op = &Op {
                index: Place::$constant as usize,
                name: $name,
                enter: concat!("fuse.", $name, ".enter"),
                reply: concat!("fuse.", $name, ".reply"),
            };
        )*

        /// Every crash point of this crate.
        ///
        /// `fuse.<operation>.enter`: the request has been read and nothing done; `fuse.<operation>.reply`:
        /// everything is done and the kernel is not told; `session.released`: the view has let go of a handle that
        /// a successor would still find. `backing.registered`: the kernel has given a number to a file that it is to pass
        /// through; `backing.noted`: that is noted for a successor; `backing.closing`: that it is given up is noted;
        /// `backing.closed`: it is given up, and the note still there. Those of a takeover, in its order: `resume.read`, what the dead worker left
        /// is known; `resume.opened`, the thread is open; `resume.joined`, the kernel sends unanswered requests
        /// again, and nobody reads them.
        pub const POINTS: &[&str] = &[$(
            concat!("fuse.", $name, ".enter"),
            concat!("fuse.", $name, ".reply"),
        )*
            "session.released",
            "backing.registered",
            "backing.noted",
            "backing.closing",
            "backing.closed",
            "resume.read",
            "resume.opened",
            "resume.joined",
        ];
    };
}

operations! {
    INIT "init"
    LOOKUP "lookup"
    FORGET "forget"
    GETATTR "getattr"
    SETATTR "setattr"
    READLINK "readlink"
    MKNOD "mknod"
    MKDIR "mkdir"
    UNLINK "unlink"
    RMDIR "rmdir"
    SYMLINK "symlink"
    RENAME "rename"
    LINK "link"
    OPEN "open"
    READ "read"
    WRITE "write"
    FLUSH "flush"
    RELEASE "release"
    FSYNC "fsync"
    OPENDIR "opendir"
    READDIR "readdir"
    READDIRPLUS "readdirplus"
    RELEASEDIR "releasedir"
    FSYNCDIR "fsyncdir"
    STATFS "statfs"
    SETXATTR "setxattr"
    GETXATTR "getxattr"
    LISTXATTR "listxattr"
    REMOVEXATTR "removexattr"
    FALLOCATE "fallocate"
    LSEEK "lseek"
    CREATE "create"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_point_on_each_side() {
        assert!(POINTS.contains(&LOOKUP.enter));
        assert!(POINTS.contains(&CREATE.reply));
        assert_eq!(POINTS.len(), 2 * 32 + 8);
    }

    #[test]
    fn every_operation_has_a_place_of_its_own() {
        assert!(ALL.iter().enumerate().all(|(at, op)| op.index == at));
    }
}
