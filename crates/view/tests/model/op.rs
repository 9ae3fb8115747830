//! What is done, at random.

use super::NAMES;
use proptest::prelude::*;

/// What is done to one thread.
#[derive(Debug, Clone)]
pub enum Op {
    Create {
        dir: usize,
        name: usize,
        mode: u32,
        exclusive: bool,
    },
    Mkdir {
        dir: usize,
        name: usize,
        mode: u32,
    },
    Symlink {
        dir: usize,
        name: usize,
    },
    Link {
        node: usize,
        dir: usize,
        name: usize,
    },
    Unlink {
        dir: usize,
        name: usize,
    },
    Rmdir {
        dir: usize,
        name: usize,
    },
    Rename {
        from: usize,
        name: usize,
        to: usize,
        new_name: usize,
        mode: u8,
    },
    Write {
        node: usize,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        node: usize,
        size: usize,
    },
    PunchHole {
        node: usize,
        offset: usize,
        len: usize,
    },
    Chmod {
        node: usize,
        mode: u32,
    },
    Chown {
        node: usize,
        uid: u32,
        gid: u32,
    },
    Utimens {
        node: usize,
        sec: i64,
        nsec: u32,
    },
    SetXattr {
        node: usize,
        name: usize,
        value: Vec<u8>,
        mode: u8,
    },
    RemoveXattr {
        node: usize,
        name: usize,
    },
    Fsync {
        node: usize,
    },
    /// Holds a file open over later operations, or lets one go.
    Hold {
        node: usize,
    },
    Release,
    WriteHeld {
        offset: usize,
        data: Vec<u8>,
    },
    Close,
    CloseAndFreeze,
    Freeze,
    /// Makes one of many frozen layers, among other things.
    Tidy,
    Snapshot,
}

/// Any of them.
pub fn op() -> impl Strategy<Value = Op> {
    let (dir, name, node) = (0..6usize, 0..NAMES.len(), 0..12usize);
    prop_oneof![
        4 => (dir.clone(), name.clone(), 0..0o10000u32, any::<bool>())
            .prop_map(|(dir, name, mode, exclusive)| Op::Create { dir, name, mode, exclusive }),
        3 => (dir.clone(), name.clone(), 0..0o10000u32)
            .prop_map(|(dir, name, mode)| Op::Mkdir { dir, name, mode }),
        1 => (dir.clone(), name.clone()).prop_map(|(dir, name)| Op::Symlink { dir, name }),
        2 => (node.clone(), dir.clone(), name.clone()).prop_map(|(node, dir, name)| Op::Link { node, dir, name }),
        3 => (dir.clone(), name.clone()).prop_map(|(dir, name)| Op::Unlink { dir, name }),
        2 => (dir.clone(), name.clone()).prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        5 => (dir.clone(), name.clone(), dir, name.clone(), 0..4u8)
            .prop_map(|(from, name, to, new_name, mode)| Op::Rename { from, name, to, new_name, mode }),
        5 => (node.clone(), 0..20_000usize, prop::collection::vec(any::<u8>(), 1..400))
            .prop_map(|(node, offset, data)| Op::Write { node, offset, data }),
        2 => (node.clone(), 0..20_000usize).prop_map(|(node, size)| Op::Truncate { node, size }),
        1 => (node.clone(), 0..20_000usize, 1..8_000usize)
            .prop_map(|(node, offset, len)| Op::PunchHole { node, offset, len }),
        2 => (node.clone(), 0..0o10000u32).prop_map(|(node, mode)| Op::Chmod { node, mode }),
        1 => (node.clone(), 0..3u32, 0..3u32).prop_map(|(node, uid, gid)| Op::Chown { node, uid, gid }),
        1 => (node.clone(), -5..1_900_000_000i64, 0..1_000_000_000u32)
            .prop_map(|(node, sec, nsec)| Op::Utimens { node, sec, nsec }),
        2 => (node.clone(), name.clone(), prop::collection::vec(any::<u8>(), 0..40), 0..3u8)
            .prop_map(|(node, name, value, mode)| Op::SetXattr { node, name, value, mode }),
        1 => (node.clone(), name).prop_map(|(node, name)| Op::RemoveXattr { node, name }),
        1 => node.clone().prop_map(|node| Op::Fsync { node }),
        1 => node.prop_map(|node| Op::Hold { node }),
        1 => Just(Op::Release),
        2 => (0..20_000usize, prop::collection::vec(any::<u8>(), 1..400))
            .prop_map(|(offset, data)| Op::WriteHeld { offset, data }),
        1 => Just(Op::Close),
        1 => Just(Op::CloseAndFreeze),
        3 => Just(Op::Freeze),
        3 => Just(Op::Tidy),
        3 => Just(Op::Snapshot),
    ]
}

/// What is done to one of several threads, or to all of them.
#[derive(Debug, Clone)]
pub enum Step {
    On(usize, Op),
    /// The original and the fork go on.
    Fork(usize),
    /// Ends the thread's view, in order or not, and deletes the thread with what it has not shared.
    Delete {
        at: usize,
        orderly: bool,
    },
    Gc,
    /// All processes die at once.
    Kill,
}

/// Any of those that one process may do while others do the same.
pub fn step() -> impl Strategy<Value = Step> {
    let at = 0..4usize;
    prop_oneof![
        40 => (at.clone(), op()).prop_map(|(at, op)| Step::On(at, op)),
        2 => at.clone().prop_map(Step::Fork),
        1 => (at, any::<bool>()).prop_map(|(at, orderly)| Step::Delete { at, orderly }),
        2 => Just(Step::Gc),
    ]
}

/// Any at all.
pub fn step_or_kill() -> impl Strategy<Value = Step> {
    prop_oneof![40 => step(), 1 => Just(Step::Kill)]
}
