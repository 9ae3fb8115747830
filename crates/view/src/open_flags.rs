//! What a file is opened for.

/// The part of open(2)'s flags that a view acts on. Creation and truncation reach it as operations of their
/// own, and appending writes arrive with explicit offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// Opened for reading.
    pub read: bool,
    /// Opened for writing.
    pub write: bool,
    /// `O_EXCL`: the name must be new. Heeded by `create` only.
    pub exclusive: bool,
}

impl OpenFlags {
    /// Takes the flags of open(2) apart.
    pub fn from_bits(bits: i32) -> Self {
        let mode = bits & libc::O_ACCMODE;
        Self {
            read: mode == libc::O_RDONLY || mode == libc::O_RDWR,
            write: mode == libc::O_WRONLY || mode == libc::O_RDWR,
            exclusive: bits & libc::O_EXCL != 0,
        }
    }
}
