//! Reading a mounted thread's tree: what goes over the socket that a `Browse` command brings.
//!
//! The frames are those of the protocol itself. The asker sends one [`TreeRequest`] at a time and waits for its
//! answer; contents of files travel as descriptors, never in frames.

use serde::{Deserialize, Serialize};

use crate::envelope::Message;
use crate::event::Failure;
use crate::wire_path::WirePath;

/// What is asked about the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeRequest {
    /// The root directory. Answered by `Node`.
    Root {},
    /// What is in the directory with that number. Answered by one or more `Names`: none at all are in one that is
    /// gone.
    Children {
        /// The directory's inode number.
        ino: u64,
    },
    /// The bytes of the regular file with that number. Answered by `File`, `Node` or `Gone`.
    Open {
        /// The file's inode number.
        ino: u64,
    },
}

impl Message for TreeRequest {
    const KINDS: &'static [&'static str] = &["Root", "Children", "Open"];
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeReply {
    /// A file: the root, or one whose bytes are in the store, under the blob it names.
    Node {
        /// It.
        node: TreeNode,
    },
    /// Some of a directory's names, in the order of their bytes.
    Names {
        /// These.
        names: Vec<TreeName>,
        /// Whether another `Names` follows.
        more: bool,
    },
    /// The file's bytes: those of the host's file whose descriptor comes along, for reading only; none come along
    /// for an empty file.
    File {},
    /// The file's bytes: those that changed, of the host's file whose descriptor comes along, and the store's.
    Patched {
        /// The blob that has the others.
        blob: String,
        /// The blob's length.
        size: u64,
    },
    /// There is no such file any more.
    Gone {},
    /// It could not be read; the next question may be asked.
    Failed(Failure),
}

impl Message for TreeReply {
    const KINDS: &'static [&'static str] = &["Node", "Names", "File", "Patched", "Gone", "Failed"];
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeName {
    /// The name.
    pub name: WirePath,
    /// What it names.
    pub node: TreeNode,
}

/// A file of the tree, as far as comparisons look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Its inode number.
    pub ino: u64,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// A hash of its extended attributes: 64 hexadecimal digits.
    pub xattrs: String,
    /// What is particular to its kind.
    pub body: TreeBody,
}

/// What is particular to a kind of file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeBody {
    /// A regular file.
    Regular {
        /// How many bytes it has.
        size: u64,
        /// The id of the blob that has them, if the store does.
        blob: Option<String>,
    },
    /// A directory.
    Directory {
        /// The id of the stored tree that it is equal to, all the way down, if there is one.
        tree: Option<String>,
        /// That tree's content id, where it is known.
        digest: Option<String>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: WirePath,
    },
    /// A named pipe.
    Fifo {},
    /// The name of a Unix socket.
    Socket {},
    /// A character device.
    CharDevice {
        /// Its number.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// Its number.
        rdev: u64,
    },
}

/// The most bytes of names that go into one `Names`: with the longest name and target added to it, it fits a frame.
const NAMES_BYTES: usize = 32 * 1024;

/// Splits a directory's names so that each part fits a frame; the last one may be empty.
pub fn name_replies(names: Vec<TreeName>) -> Result<Vec<TreeReply>, serde_json::Error> {
    let mut replies = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for name in names {
        let len = serde_json::to_vec(&name)?.len() + 1;
        if bytes + len > NAMES_BYTES && !part.is_empty() {
            replies.push(TreeReply::Names { names: std::mem::take(&mut part), more: true });
            bytes = 0;
        }
        bytes += len;
        part.push(name);
    }
    replies.push(TreeReply::Names { names: part, more: false });
    Ok(replies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, MAX_BODY};

    fn name(name: &str, target: &str) -> TreeName {
        let body = TreeBody::Symlink { target: WirePath::from(target) };
        let node = TreeNode {
            ino: u64::MAX,
            mode: 0o7777,
            uid: u32::MAX,
            gid: u32::MAX,
            xattrs: "0".repeat(64),
            body,
        };
        TreeName { name: WirePath::from(name), node }
    }

    #[test]
    fn the_longest_names_fit_frames_and_none_is_lost() {
        // Six bytes of JSON for each.
        let longest = name(&"\u{1}".repeat(255), &"\u{1}".repeat(4095));
        let names: Vec<TreeName> =
            (0..100).map(|_| longest.clone()).chain((0..1000).map(|_| name("x", "y"))).collect();
        let replies = name_replies(names.clone()).unwrap();
        let mut found = Vec::new();
        let last = replies.len() - 1;
        for (position, reply) in replies.into_iter().enumerate() {
            let json = Envelope::new(u64::MAX, reply.clone()).to_json().unwrap();
            assert!(json.len() <= MAX_BODY, "{}", json.len());
            let TreeReply::Names { names, more } = reply else { panic!("{reply:?}") };
            assert_eq!(more, position < last);
            found.extend(names);
        }
        assert_eq!(found, names);
        assert_eq!(name_replies(Vec::new()).unwrap(), [TreeReply::Names { names: Vec::new(), more: false }]);
    }
}
