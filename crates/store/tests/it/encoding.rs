//! Encodings are canonical, pinned, and refuse whatever they did not write.

use proptest::prelude::*;
use selvedge_store::{
    Content, DecodeError, EncodedTree, Entry, FileKind, Ino, MODE_BITS, Meta, ObjectId, ObjectKind, Snapshot,
    Timestamp, Tree, TreeBuilder, Xattrs, check_name,
};
use std::path::Path;

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
}

fn id() -> impl Strategy<Value = ObjectId> {
    any::<[u8; 32]>().prop_map(ObjectId::from_bytes)
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        (id(), 0..=i64::MAX.unsigned_abs(), proptest::option::of(id()))
            .prop_map(|(blob, size, holes)| Content::Regular { blob, size, holes }),
        (id(), id()).prop_map(|(tree, digest)| Content::Directory { tree, digest }),
        proptest::collection::vec(1..=255_u8, 1..40).prop_map(|target| Content::Symlink { target }),
        Just(Content::Fifo),
        Just(Content::Socket),
        any::<u64>().prop_map(|rdev| Content::CharDevice { rdev }),
        any::<u64>().prop_map(|rdev| Content::BlockDevice { rdev }),
    ]
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = proptest::collection::vec(1..=255_u8, 1..20);
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    proptest::collection::vec((name, value), 0..4).prop_map(|pairs| pairs.into_iter().collect())
}

fn entry() -> impl Strategy<Value = Entry> {
    let owner = (any::<u32>(), any::<u32>(), any::<u32>());
    (any::<u64>(), 0..=MODE_BITS, owner, time(), time(), xattrs(), content()).prop_map(
        |(ino, mode, (uid, gid, nlink), mtime, ctime, xattrs, content)| Entry {
            meta: Meta { ino: Ino(ino), mode, uid, gid, nlink, mtime, ctime, xattrs },
            content,
        },
    )
}

fn entries() -> impl Strategy<Value = Vec<(Vec<u8>, Entry)>> {
    let name =
        proptest::collection::vec(any::<u8>(), 1..12).prop_filter("a name", |name| check_name(name).is_ok());
    proptest::collection::btree_map(name, entry(), 0..12).prop_map(|map| map.into_iter().collect())
}

fn tree_of(entries: &[(Vec<u8>, Entry)]) -> Result<EncodedTree, DecodeError> {
    let mut builder = TreeBuilder::new();
    for (name, entry) in entries {
        builder.push(name, entry.clone());
    }
    builder.finish()
}

fn encode(entries: &[(Vec<u8>, Entry)]) -> EncodedTree {
    tree_of(entries).unwrap()
}

/// Decodes, and checks that what decodes is the only form of what it says.
fn check_tree(bytes: &[u8]) {
    if let Ok(tree) = Tree::decode(bytes) {
        let entries: Vec<_> = tree.iter().map(|(name, entry)| (name.to_vec(), entry)).collect();
        assert_eq!(entries.len(), tree.len());
        assert_eq!(encode(&entries).bytes, bytes);
    }
}

fn check_snapshot(bytes: &[u8]) {
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        assert_eq!(snapshot.encode().unwrap(), bytes);
    }
}

/// One change of one place: a byte altered, left out, or put in.
fn mutate(bytes: &[u8], place: usize, byte: u8, how: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = place % (bytes.len() + 1);
    match how % 4 {
        0 if place < bytes.len() => bytes[place] = byte,
        1 if place < bytes.len() => drop(bytes.remove(place)),
        2 => bytes.truncate(place),
        _ => bytes.insert(place, byte),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_come_back(entries in entries()) {
        let encoded = encode(&entries);
        let tree = Tree::decode(encoded.bytes.clone()).unwrap();
        prop_assert_eq!(encoded.id, ObjectKind::Tree.id(&encoded.bytes));
        prop_assert_eq!(tree.encoded_len(), encoded.bytes.len());
        let read: Vec<_> = tree.iter().map(|(name, entry)| (name.to_vec(), entry)).collect();
        prop_assert_eq!(&read, &entries);
        for (name, entry) in &entries {
            prop_assert_eq!(tree.lookup(name), Some(entry.clone()));
            let (_, found) = tree.find_ino(entry.meta.ino).unwrap();
            prop_assert_eq!(found.meta.ino, entry.meta.ino);
        }
        prop_assert_eq!(tree.lookup(b"\xff\xff not there"), None);
        let names: Vec<_> = tree.iter_names().map(|(name, ino, kind)| (name.to_vec(), ino, kind)).collect();
        let expected: Vec<_> = entries.iter().map(|(name, e)| (name.clone(), e.meta.ino, e.kind())).collect();
        prop_assert_eq!(names, expected);
    }

    #[test]
    fn the_order_of_pushing_does_not_matter(entries in entries()) {
        let reversed: Vec<_> = entries.iter().rev().cloned().collect();
        prop_assert_eq!(encode(&entries), encode(&reversed));
    }

    #[test]
    fn a_digest_ignores_numbers_times_and_links_and_nothing_else(entries in entries(), other in entry()) {
        let digest = |entries: &[(Vec<u8>, Entry)]| encode(entries).digest;
        let mut same = entries.clone();
        for (_, entry) in &mut same {
            entry.meta.ino = other.meta.ino;
            entry.meta.nlink = other.meta.nlink;
            entry.meta.mtime = other.meta.mtime;
            entry.meta.ctime = other.meta.ctime;
            match &mut entry.content {
                Content::Regular { holes, .. } => *holes = None,
                Content::Directory { tree, .. } => *tree = ObjectId::from_bytes([1; 32]),
                _ => {}
            }
        }
        prop_assert_eq!(digest(&same), digest(&entries));
        for position in 0..entries.len() {
            let changed = |change: &dyn Fn(&mut Entry)| {
                let mut entries = entries.clone();
                change(&mut entries[position].1);
                digest(&entries)
            };
            prop_assert_ne!(changed(&|entry| entry.meta.mode ^= 1), digest(&entries));
            prop_assert_ne!(changed(&|entry| entry.meta.uid ^= 1), digest(&entries));
            prop_assert_ne!(changed(&|entry| entry.meta.gid ^= 1), digest(&entries));
            let add = |entry: &mut Entry| {
                entry.meta.xattrs.insert(b"user.a name no other has".to_vec(), Vec::new());
            };
            prop_assert_ne!(changed(&add), digest(&entries));
            let mut fewer = entries.clone();
            let (name, entry) = fewer.remove(position);
            prop_assert_ne!(digest(&fewer), digest(&entries));
            fewer.push(([&name[..], b"!"].concat(), entry));
            prop_assert_ne!(digest(&fewer), digest(&entries));
        }
    }

    #[test]
    fn changed_trees_are_refused_or_canonical(
        entries in entries(), place: usize, byte: u8, how: u8, again: (usize, u8, u8),
    ) {
        let once = mutate(&encode(&entries).bytes, place, byte, how);
        check_tree(&once);
        check_tree(&mutate(&once, again.0, again.1, again.2));
    }

    #[test]
    fn random_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_tree(&bytes);
        check_snapshot(&bytes);
        check_tree(&[&[1], &bytes[..]].concat());
        check_snapshot(&[&[1], &bytes[..]].concat());
    }

    #[test]
    fn snapshots_come_back(
        root in entry(), tree in id(), digest in id(), parents in proptest::collection::vec(id(), 0..4),
        time in time(), message in proptest::collection::vec(any::<u8>(), 0..40),
        place: usize, byte: u8, how: u8,
    ) {
        let root = Entry { content: Content::Directory { tree, digest }, ..root };
        let snapshot = Snapshot { root, parents, time, message };
        let bytes = snapshot.encode().unwrap();
        prop_assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot);
        check_snapshot(&mutate(&bytes, place, byte, how));
    }
}

fn plain(content: Content) -> Entry {
    let mtime = Timestamp { sec: 1_700_000_000, nsec: 123_456_789 };
    let ctime = Timestamp { sec: -1, nsec: 999_999_999 };
    let xattrs = Xattrs::new();
    Entry {
        meta: Meta { ino: Ino(300), mode: 0o4755, uid: 1000, gid: 70_000, nlink: 2, mtime, ctime, xattrs },
        content,
    }
}

fn sample() -> Vec<(Vec<u8>, Entry)> {
    let id = |byte| ObjectId::from_bytes([byte; 32]);
    let mut with_xattrs = plain(Content::Regular { blob: id(0x11), size: 5, holes: None });
    with_xattrs.meta.xattrs.insert(b"user.b".to_vec(), b"\0\xff".to_vec());
    with_xattrs.meta.xattrs.insert(b"user.a".to_vec(), Vec::new());
    vec![
        (b"block".to_vec(), plain(Content::BlockDevice { rdev: 0x0001_0301 })),
        (b"char".to_vec(), plain(Content::CharDevice { rdev: 0x0107 })),
        (b"directory".to_vec(), plain(Content::Directory { tree: id(0x22), digest: id(0x33) })),
        (b"fifo".to_vec(), plain(Content::Fifo)),
        (b"file".to_vec(), with_xattrs),
        (b"link".to_vec(), plain(Content::Symlink { target: b"../\xff".to_vec() })),
        (b"socket".to_vec(), plain(Content::Socket)),
        (
            b"sparse \xfe".to_vec(),
            plain(Content::Regular { blob: id(0x44), size: 1 << 40, holes: Some(id(0x55)) }),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

/// Compares with `tests/golden/name`. What repositories hold is written so: a difference means
/// that the format changed, and needs a new version. With `UPDATE_GOLDEN` set the file is written.
fn check_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{} differs", path.display());
}

#[test]
fn encodings_are_as_they_were() {
    let tree = encode(&sample());
    check_golden("tree-v1.hex", &format!("{}{}\n{}\n", hex(&tree.bytes), tree.id, tree.digest));
    let empty = encode(&[]);
    check_golden("tree-v1-empty.hex", &format!("{}{}\n{}\n", hex(&empty.bytes), empty.id, empty.digest));
    let snapshot = Snapshot {
        root: plain(Content::Directory { tree: tree.id, digest: tree.digest }),
        parents: vec![ObjectId::from_bytes([0x66; 32]), ObjectId::from_bytes([0x77; 32])],
        time: Timestamp { sec: 1_800_000_000, nsec: 1 },
        message: b"a message\n".to_vec(),
    };
    let bytes = snapshot.encode().unwrap();
    check_golden("snapshot-v1.hex", &format!("{}{}\n", hex(&bytes), ObjectKind::Snapshot.id(&bytes)));
}

/// A tree of one entry, byte by byte, that differs in one value from a good one.
fn one_entry(name: &[u8], kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 1, u8::try_from(name.len() & 0x7f).unwrap()];
    bytes.extend_from_slice(name);
    bytes.push(kind);
    bytes.extend_from_slice(rest);
    bytes
}

/// Number, mode, owner, group, links, both times, no attributes.
const META: [u8; 10] = [5, 7, 0, 0, 1, 0, 0, 0, 0, 0];

#[test]
fn hostile_trees_are_refused() {
    assert!(Tree::decode(one_entry(b"a", FileKind::Fifo.code(), &META)).is_ok());
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
        let error = Tree::decode(one_entry(name, 6, &[&META[..], &[0]].concat())).unwrap_err();
        assert_eq!(error, DecodeError::Name, "{name:?}");
    }
    let mut long = vec![1, 1, 0x80, 0x02];
    long.extend([b'n'; 256]);
    long.push(4);
    long.extend(META);
    assert!(Tree::decode(long).is_err(), "a name of 256 bytes");
    for kind in [0, 8, 255] {
        assert_eq!(Tree::decode(one_entry(b"a", kind, &META)), Err(DecodeError::Range("a kind")));
    }
    let with = |at: usize, bytes: &[u8]| {
        let mut meta = META.to_vec();
        meta.splice(at..=at, bytes.iter().copied());
        Tree::decode(one_entry(b"a", 4, &meta)).unwrap_err()
    };
    assert_eq!(with(1, &[0x80, 0x20]), DecodeError::Range("a mode"));
    assert_eq!(with(6, &[0x80, 0x94, 0xeb, 0xdc, 0x03]), DecodeError::Range("nanoseconds"));
    assert_eq!(with(2, &[0xff, 0xff, 0xff, 0xff, 0x1f]), DecodeError::Range("a user"));
    assert_eq!(with(0, &[0x85, 0x00]), DecodeError::Number);
    let pair = |first: u8, second: u8| {
        let mut bytes = vec![1, 2, 1, first, 4];
        bytes.extend(META);
        bytes.extend([1, second, 4]);
        bytes.extend(META);
        Tree::decode(bytes)
    };
    assert!(pair(b'a', b'b').is_ok());
    assert_eq!(pair(b'b', b'a'), Err(DecodeError::Order("names")));
    assert_eq!(pair(b'a', b'a'), Err(DecodeError::Order("names")));
    let good = one_entry(b"a", 4, &META);
    assert_eq!(Tree::decode([&good[..], b"\0"].concat()), Err(DecodeError::Trailing(1)));
    for len in 0..good.len() {
        assert!(Tree::decode(&good[..len]).is_err(), "cut to {len}");
    }
    assert_eq!(Tree::decode([2, 0]), Err(DecodeError::Version(2)));
    // A count that would reserve 2⁶³ entries reserves none.
    let count = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(Tree::decode(count), Err(DecodeError::Truncated));
}

#[test]
fn hostile_contents_are_refused() {
    let tree = |kind: u8, content: &[u8]| Tree::decode(one_entry(b"a", kind, &[&META[..], content].concat()));
    assert!(tree(3, b"\x01x").is_ok());
    for (kind, content, what) in [
        (3, &b"\x00"[..], "an empty target"),
        (3, b"\x02a\0", "NUL in a target"),
        (2, &[0; 63], "half a directory"),
        (4, b"\0", "content of a pipe"),
        (6, b"", "no device number"),
    ] {
        assert!(tree(kind, content).is_err(), "{what}");
    }
    let regular = |size: &[u8], holes: &[u8]| tree(1, &[&[0; 32], size, holes].concat());
    assert!(regular(&[0], &[0]).is_ok());
    assert!(regular(&[0xff; 9], &[0]).is_err());
    assert!(
        regular(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[0]).is_err(),
        "beyond off_t"
    );
    assert!(regular(&[0], &[2]).is_err(), "a hole marker of 2");
    let target = vec![b'x'; 4096];
    assert!(tree(3, &[&[0x80, 0x20], &target[..]].concat()).is_err(), "a target of 4096 bytes");
}

#[test]
fn hostile_snapshots_are_refused() {
    let directory = |content: &[u8]| [&[1, 2][..], &META, content].concat();
    let rest = [0, 0, 0, 0];
    assert!(Snapshot::decode(&[&directory(&[0; 64])[..], &rest].concat()).is_ok());
    let file = [&[1, 4][..], &META, &rest].concat();
    assert_eq!(Snapshot::decode(&file), Err(DecodeError::Range("the kind of the root")));
    let many = [&directory(&[0; 64])[..], &[65], &[0; 65 * 32], &[0, 0, 0]].concat();
    assert_eq!(Snapshot::decode(&many), Err(DecodeError::Range("the number of parents")));
    let long = [&directory(&[0; 64])[..], &[0, 0, 0, 0x81, 0x80, 0x40], &vec![0; (1 << 20) + 1]].concat();
    assert!(Snapshot::decode(&long).is_err(), "a message over 1 MiB");
    let trailing = [&directory(&[0; 64])[..], &rest, &[0]].concat();
    assert_eq!(Snapshot::decode(&trailing), Err(DecodeError::Trailing(1)));
}

#[test]
fn what_no_directory_can_hold_is_not_encoded() {
    let entry = || plain(Content::Fifo);
    for name in [&b""[..], b".", b"..", b"a/b", b"\0", &[b'n'; 256]] {
        assert_eq!(tree_of(&[(name.to_vec(), entry())]), Err(DecodeError::Name));
    }
    let twice = [(b"a".to_vec(), entry()), (b"a".to_vec(), entry())];
    assert_eq!(tree_of(&twice), Err(DecodeError::Order("names")));
    let mut wrong = entry();
    wrong.meta.mode = 0o10_000;
    assert!(tree_of(&[(b"a".to_vec(), wrong)]).is_err());
    let mut wrong = entry();
    wrong.meta.mtime.nsec = 1_000_000_000;
    assert!(tree_of(&[(b"a".to_vec(), wrong)]).is_err());
    let wrong = plain(Content::Symlink { target: Vec::new() });
    assert!(tree_of(&[(b"a".to_vec(), wrong)]).is_err());
}
