//! Replies to the kernel.

use fuser::{
    Errno, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

/// Node ids are never reused, so they need no generation.
pub(crate) const GENERATION: Generation = Generation(0);

/// A reply that can say no.
pub(crate) trait Refuse {
    /// Says it.
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty)*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse! {
    ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry ReplyLseek ReplyOpen ReplyStatfs
    ReplyWrite ReplyXattr
}

/// Done.
pub(crate) fn accept_ok(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

/// An attribute or a list of them, or only its length when the caller asks with a `size` of 0.
pub(crate) fn accept_xattr(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(length);
    } else if length > size {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(bytes);
    }
}
