//! What is compared.

use clap::ValueEnum;

/// A way to have a tree before one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Subject {
    /// A plain directory: what all others are compared with.
    Host,
    /// A thread, mounted.
    Selvedge,
    /// The same, mounted to be fast at small files.
    SmallFiles,
    /// The same, mounted so that the kernel holds back what is written. Measured where it is asked for.
    Writeback,
    /// Another path for the same directory, by FUSE.
    Bindfs,
    /// A writable layer over a directory, by FUSE.
    FuseOverlayfs,
    /// A writable layer over a directory, by the kernel.
    Overlayfs,
    /// A FUSE server that keeps everything in memory, for nobody: how fast any could be. Measured where it is asked for.
    Memory,
}

impl Subject {
    /// All that somebody could work in, in the order of tables.
    pub const ALL: [Self; 6] =
        [Self::Host, Self::Selvedge, Self::SmallFiles, Self::Bindfs, Self::FuseOverlayfs, Self::Overlayfs];

    /// A name for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Selvedge => "selvedge",
            Self::SmallFiles => "selvedge-small-files",
            Self::Writeback => "selvedge-writeback",
            Self::Bindfs => "bindfs",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Overlayfs => "overlayfs",
            Self::Memory => "memory-fs",
        }
    }

    /// What is set of a mount of ours; `None` for others.
    pub(crate) const fn setting(self) -> Option<&'static str> {
        match self {
            Self::Selvedge => Some("mount.profile=throughput"),
            Self::SmallFiles => Some("mount.profile=small-files"),
            Self::Writeback => Some("mount.writeback=true"),
            _ => None,
        }
    }

    /// Whether it is a mount of ours, however it is set.
    pub(crate) const fn is_ours(self) -> bool {
        self.setting().is_some()
    }

    /// Whether a process of its own answers for it.
    pub(crate) const fn is_served(self) -> bool {
        self.is_ours() || matches!(self, Self::Bindfs | Self::FuseOverlayfs | Self::Memory)
    }

    /// Whether changes go to a layer, and the tree beneath stays as it is.
    pub(crate) const fn is_layered(self) -> bool {
        self.is_ours() || matches!(self, Self::FuseOverlayfs | Self::Overlayfs | Self::Memory)
    }
}
