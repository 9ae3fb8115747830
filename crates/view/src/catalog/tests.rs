use super::*;
use crate::body_codec;
use proptest::prelude::*;
use selvedge_store::{LayerId, ObjectId, Timestamp, Xattrs};
use tempfile::TempDir;

fn inode(ino: u64, mark: u32) -> Inode {
    let time = Timestamp { sec: i64::from(mark), nsec: 0 };
    let blob = |mark: u32| Body::Blob { id: ObjectId::from_bytes([7; 32]), size: mark.into(), holes: None };
    Inode {
        ino: Ino(ino),
        kind: FileKind::Regular,
        mode: mark,
        uid: 0,
        gid: 0,
        nlink: mark % 3,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        host_ctime: None,
        parent: None,
        body: if mark.is_multiple_of(2) {
            blob(mark)
        } else {
            Body::File { layer: LayerId::from_bytes([1; 16]) }
        },
        fallback: mark.is_multiple_of(5).then(|| blob(mark)),
        xattrs: Xattrs::new(),
        applied: None,
    }
}

fn effect() -> impl Strategy<Value = Effect> {
    let ino = || (1_u64..6).prop_map(Ino);
    let name = || prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    prop_oneof![
        6 => (1_u64..6, 0_u32..100).prop_map(|(ino, mark)| Effect::PutInode(Arc::new(inode(ino, mark)))),
        2 => ino().prop_map(Effect::DeleteInode),
        5 => (ino(), name(), ino())
            .prop_map(|(parent, name, ino)| Effect::PutName { parent, name, ino, kind: FileKind::Fifo }),
        2 => (ino(), name()).prop_map(|(parent, name)| Effect::Whiteout { parent, name }),
        2 => (ino(), name()).prop_map(|(parent, name)| Effect::DropName { parent, name }),
        1 => ino().prop_map(Effect::DropNames),
        2 => (ino(), prop::option::of(100_i64..200)).prop_map(|(ino, since)| {
            Effect::AddOrphan { ino, since: since.map(|sec| Timestamp { sec, nsec: 5 }) }
        }),
        2 => ino().prop_map(Effect::DropOrphan),
        2 => (ino(), name(), ino(), ino()).prop_map(|(parent, name, old, source)| {
            Effect::Unsettle(Unsettled { parent, name, old, source, from: (old, b"from".to_vec()) })
        }),
        2 => (ino(), name()).prop_map(|(parent, name)| Effect::Settle { parent, name }),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Effect>),
    /// Takes what is pending, and brings so many effects of what was taken in.
    BringIn(usize),
    Checkpoint,
    BeginAnew,
    /// As after the death of the process.
    Reopen,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(effect(), 1..6).prop_map(Step::Commit),
        3 => (1_usize..12).prop_map(Step::BringIn),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::BeginAnew),
        2 => Just(Step::Reopen),
        1 => Just(Step::Close),
    ]
}

/// What a catalog is to say.
#[derive(Debug, Default)]
struct Model {
    rows: BTreeMap<Ino, Inode>,
    names: BTreeMap<(Ino, Vec<u8>), NameRow>,
    orphans: HashMap<Ino, Option<Timestamp>>,
    unsettled: BTreeMap<(Ino, Vec<u8>), Unsettled>,
}

impl Model {
    /// The same as whoever changes a thread would say it: only of a node with a row is it said when it lost its name, from then
    /// on rows that are put have none, and it is an orphan until its row is gone.
    fn lawful(&self, effect: Effect) -> Vec<Effect> {
        match effect {
            Effect::PutInode(inode) if self.orphans.contains_key(&inode.ino) => {
                vec![Effect::PutInode(Arc::new(Inode { nlink: 0, ..(*inode).clone() }))]
            }
            Effect::AddOrphan { ino, .. } if self.orphans.contains_key(&ino) => Vec::new(),
            Effect::AddOrphan { ino, since: Some(_) } if !self.rows.contains_key(&ino) => {
                vec![Effect::AddOrphan { ino, since: None }]
            }
            Effect::DropOrphan(ino) => vec![Effect::DeleteInode(ino), Effect::DropOrphan(ino)],
            effect => vec![effect],
        }
    }

    fn apply(&mut self, effect: &Effect) {
        match effect.clone() {
            Effect::PutInode(inode) => drop(self.rows.insert(inode.ino, (*inode).clone())),
            Effect::DeleteInode(ino) => drop(self.rows.remove(&ino)),
            Effect::PutName { parent, name, ino, kind } => {
                self.names.insert((parent, name), NameRow::Node { ino, kind });
            }
            Effect::Whiteout { parent, name } => {
                self.names.insert((parent, name), NameRow::Whiteout);
            }
            Effect::DropName { parent, name } => drop(self.names.remove(&(parent, name))),
            Effect::DropNames(directory) => self.names.retain(|(parent, _), _| *parent != directory),
            Effect::AddOrphan { ino, since } => {
                self.orphans.insert(ino, since);
                if let (Some(since), Some(row)) = (since, self.rows.get_mut(&ino)) {
                    *row = row.clone().without_name(since);
                }
            }
            Effect::DropOrphan(ino) => drop(self.orphans.remove(&ino)),
            Effect::Unsettle(row) => {
                drop(self.unsettled.insert((row.parent, row.name.clone()), row));
            }
            Effect::Settle { parent, name } => drop(self.unsettled.remove(&(parent, name))),
            Effect::Found => {}
        }
    }

    fn assert_is(&self, catalog: &Catalog) {
        for ino in (1..6).map(Ino) {
            let row = catalog.batches().find_map(|batch| batch.row(ino));
            let row = row.map_or_else(
                || catalog.file.database().inode(ino).unwrap(),
                |row| row.map(|row| (**row).clone()),
            );
            assert_eq!(row.map(|row| catalog.amended(row)).as_ref(), self.rows.get(&ino));
            // A catalog is asked of names only where it has a row.
            if !self.rows.contains_key(&ino) {
                continue;
            }
            assert_eq!(catalog.inode(ino).unwrap().as_ref(), self.rows.get(&ino));
            let names = self.names.iter().filter(|((parent, _), _)| *parent == ino);
            let names: Vec<_> = names.map(|((_, name), row)| (name.clone(), *row)).collect();
            for name in [b"a", b"b", b"c"] {
                let said = self.names.get(&(ino, name.to_vec())).copied();
                assert_eq!(catalog.name(ino, name).unwrap(), said);
            }
            assert!(names.is_empty() || catalog.speaks_of(ino).unwrap());
            assert_eq!(catalog.names(ino).unwrap(), names);
        }
        let orphans: HashSet<Ino> = catalog.orphans().collect();
        assert_eq!(orphans, self.orphans.keys().copied().collect());
        let mut unsettled = catalog.unsettled().unwrap();
        unsettled.sort_by_key(|row| (row.parent, row.name.clone()));
        assert_eq!(unsettled, self.unsettled.values().cloned().collect::<Vec<_>>());
        for wanted in [Wanted::OnOthers, Wanted::WithFallback, Wanted::Patched] {
            let mut found = catalog.inodes(wanted).unwrap();
            found.sort_by_key(|row| row.ino);
            let rows = self.rows.values().filter(|row| wanted.is(row)).cloned();
            assert_eq!(found, rows.collect::<Vec<_>>(), "{wanted:?}");
        }
    }

    fn assert_settled(&self, catalog: &mut Catalog) {
        let names = self.names.iter().map(|((parent, name), row)| (*parent, name.clone(), *row));
        let mut found = catalog.all_names().unwrap();
        found.sort_by_key(|(parent, name, _)| (*parent, name.clone()));
        assert_eq!(found, names.collect::<Vec<_>>());
        assert_eq!(catalog.numbers().unwrap(), self.rows.keys().copied().collect());
        let mut scan = Scan::default();
        catalog.scan(&mut scan).unwrap();
        let nlinks: BTreeMap<Ino, u32> = scan.rows.iter().map(|(ino, row)| (*ino, row.nlink)).collect();
        assert_eq!(nlinks, self.rows.iter().map(|(ino, row)| (*ino, row.nlink)).collect());
        let says = !self.names.is_empty() || self.rows.values().any(|row| row.nlink > 0);
        assert_eq!(catalog.says_anything().unwrap(), says);
    }
}

fn take(catalog: Catalog, step: &Step, dir: &Path) -> Catalog {
    let mut catalog = catalog;
    match step {
        Step::Commit(effects) => catalog.commit(&Commit { effects: effects.clone() }).unwrap(),
        Step::BringIn(most) => {
            if let Some(bringing) = catalog.bring_in().unwrap() {
                bringing.file.bring_in(&bringing.batch, *most).unwrap();
            }
        }
        Step::Checkpoint => catalog.checkpoint().unwrap(),
        Step::BeginAnew => catalog.begin_anew().unwrap(),
        Step::Reopen => {
            drop(catalog);
            catalog = Catalog::open_upper(dir).unwrap();
        }
        Step::Close => {
            catalog.close_whole().unwrap();
            assert!(!dir.join(crate::journal::NAME).exists());
            catalog = Catalog::open_upper(dir).unwrap();
        }
    }
    catalog
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_catalog_says_what_was_committed_wherever_it_is_by_now(steps in prop::collection::vec(step(), 1..40)) {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = TempDir::new_in(parent).unwrap();
        let mut catalog = Catalog::create(dir.path()).unwrap();
        let mut model = Model::default();
        for mut step in steps {
            if let Step::Commit(effects) = &mut step {
                let mut lawful = Vec::new();
                for effect in effects.drain(..) {
                    for effect in model.lawful(effect) {
                        model.apply(&effect);
                        lawful.push(effect);
                    }
                }
                *effects = lawful;
            }
            catalog = take(catalog, &step, dir.path());
            model.assert_is(&catalog);
        }
        model.assert_settled(&mut catalog);
        catalog.close_whole().unwrap();
        model.assert_settled(&mut Catalog::open_frozen(dir.path()).unwrap());
    }
}

/// A row of some 64 KiB.
fn large(ino: u64, mark: u32) -> Inode {
    let mut xattrs = Xattrs::new();
    xattrs.insert(b"user.large".to_vec(), vec![1; 60_000]);
    Inode { xattrs, ..inode(ino, mark) }
}

#[test]
fn more_than_the_journal_holds_is_brought_in_by_who_commits() {
    let dir = TempDir::new().unwrap();
    let mut catalog = Catalog::create(dir.path()).unwrap();
    for mark in 0..300 {
        let mut commit = Commit::new();
        commit.put(large(u64::from(mark % 100) + 1, mark));
        catalog.commit(&commit).unwrap();
    }
    let journal = dir.path().join(crate::journal::NAME);
    assert!(journal.metadata().unwrap().len() <= 8 << 20);
    drop(catalog);
    let catalog = Catalog::open_upper(dir.path()).unwrap();
    for mark in 200..300 {
        assert_eq!(catalog.inode(Ino(u64::from(mark % 100) + 1)).unwrap().unwrap().mode, mark);
    }
}

#[test]
fn a_commit_that_no_journal_holds_is_in_the_file_at_once_and_after_what_came_before() {
    let dir = TempDir::new().unwrap();
    let mut catalog = Catalog::create(dir.path()).unwrap();
    let mut commit = Commit::new();
    commit.put(inode(1, 1));
    catalog.commit(&commit).unwrap();
    let mut commit = Commit::new();
    for ino in 1..100 {
        commit.put(large(ino, 2));
    }
    catalog.commit(&commit).unwrap();
    let mut commit = Commit::new();
    commit.put(inode(2, 3));
    catalog.commit(&commit).unwrap();
    drop(catalog);
    let catalog = Catalog::open_upper(dir.path()).unwrap();
    let modes: Vec<u32> = (1..4).map(|ino| catalog.inode(Ino(ino)).unwrap().unwrap().mode).collect();
    assert_eq!(modes, [2, 3, 2]);
}

#[test]
fn a_use_of_which_a_loss_of_power_left_the_journal_alone_did_not_end_in_order() {
    let (dir, left) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut catalog = Catalog::create(dir.path()).unwrap();
    catalog.begin_use("boot-1").unwrap();
    catalog.end_use().unwrap();
    catalog.close().unwrap();
    let mut catalog = Catalog::open_upper(dir.path()).unwrap();
    assert!(catalog.ended_orderly().unwrap());
    catalog.begin_use("boot-2").unwrap();
    let mut commit = Commit::new();
    commit.put(inode(1, 9));
    catalog.commit(&commit).unwrap();
    assert!(!catalog.ended_orderly().unwrap());
    // By another process: to close the file here would take its locks from who has it open.
    let files = [FILE, crate::journal::NAME].map(|name| dir.path().join(name));
    let copied = std::process::Command::new("cp").args(files).arg(left.path()).status().unwrap();
    assert!(copied.success());
    let mut catalog = Catalog::open_upper(left.path()).unwrap();
    assert_eq!(catalog.boot_id().unwrap().as_deref(), Some("boot-1"));
    assert!(!catalog.ended_orderly().unwrap());
    catalog.checkpoint().unwrap();
    assert!(!catalog.ended_orderly().unwrap(), "nor when the file has it");
}

/// Makes of a closed catalog one of a format that has a column for each field of a node.
fn in_columns(dir: &Path, format: u32) {
    let db = rusqlite::Connection::open(dir.join(FILE)).unwrap();
    let rows: Vec<Inode> = {
        let mut statement = db.prepare("SELECT row FROM nodes").unwrap();
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        rows.map(|bytes| record::decode_row(&bytes.unwrap()).unwrap()).collect()
    };
    db.execute_batch(
        "DROP TABLE nodes; DROP TABLE fallbacks; DROP TABLE orphans;
         CREATE TABLE inodes(
             ino INTEGER PRIMARY KEY, kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL,
             gid INTEGER NOT NULL, nlink INTEGER NOT NULL, rdev INTEGER NOT NULL,
             atime_s INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_s INTEGER NOT NULL,
             mtime_ns INTEGER NOT NULL, ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
             host_ctime_s INTEGER, host_ctime_ns INTEGER, parent INTEGER, body BLOB NOT NULL, fallback BLOB,
             xattrs BLOB NOT NULL, epoch INTEGER, request INTEGER, result INTEGER) STRICT;
         CREATE INDEX fallbacks ON inodes(ino) WHERE fallback IS NOT NULL;
         CREATE TABLE orphans(ino INTEGER PRIMARY KEY) STRICT;
         INSERT INTO orphans VALUES(3);",
    )
    .unwrap();
    for row in rows {
        db.execute(
            "INSERT INTO inodes VALUES(?1, ?2, ?3, 0, 0, ?4, 0, ?5, 0, ?5, 0, ?5, 0, NULL, NULL, NULL, ?6, ?7, ?8, \
             NULL, NULL, NULL)",
            rusqlite::params![
                row.ino.0.cast_signed(),
                row.kind.code(),
                row.mode,
                row.nlink,
                row.ctime.sec,
                body_codec::encode(&row.body),
                row.fallback.as_ref().map(body_codec::encode),
                row.xattrs.encode().unwrap(),
            ],
        )
        .unwrap();
    }
    db.execute("UPDATE meta SET value = ?1 WHERE key = 'format'", [format]).unwrap();
    db.close().unwrap();
}

#[test]
fn catalogs_of_the_formats_before_are_read_and_become_ones_of_this_when_they_are_opened_to_be_written() {
    for format in [1, 2] {
        let dir = TempDir::new().unwrap();
        let mut catalog = Catalog::create(dir.path()).unwrap();
        let mut commit = Commit::new();
        for mark in 0..20 {
            commit.put(inode(u64::from(mark) + 1, mark));
        }
        commit.push(Effect::PutName {
            parent: Ino(1),
            name: b"a".to_vec(),
            ino: Ino(2),
            kind: FileKind::Regular,
        });
        catalog.commit(&commit).unwrap();
        catalog.close_whole().unwrap();
        in_columns(dir.path(), format);
        let check = |catalog: &mut Catalog| {
            for mark in 0..20 {
                let ino = Ino(u64::from(mark) + 1);
                assert_eq!(catalog.inode(ino).unwrap(), Some(inode(ino.0, mark)));
            }
            let mut with_fallback = catalog.with_fallback().unwrap();
            with_fallback.sort();
            assert_eq!(with_fallback, [1, 6, 11, 16].map(Ino));
            assert_eq!(catalog.numbers().unwrap().len(), 20);
            assert_eq!(catalog.problems().unwrap(), Vec::<String>::new());
            assert_eq!(catalog.bodies().unwrap().len(), 24);
            assert!(catalog.says_anything().unwrap());
            assert!(catalog.name(Ino(1), b"a").unwrap().is_some());
            let mut scan = Scan::default();
            catalog.scan(&mut scan).unwrap();
            assert_eq!(scan.rows.len(), 20);
        };
        check(&mut Catalog::open_frozen(dir.path()).unwrap());
        let mut catalog = Catalog::open_upper(dir.path()).unwrap();
        check(&mut catalog);
        assert_eq!(catalog.orphans().collect::<Vec<_>>(), [Ino(3)]);
        assert_eq!(catalog.file.database().meta::<i64>("format").unwrap(), Some(3));
        let mut commit = Commit::new();
        commit.put(inode(6, 1)).push(Effect::DeleteInode(Ino(11)));
        catalog.commit(&commit).unwrap();
        catalog.close_whole().unwrap();
        let catalog = Catalog::open_frozen(dir.path()).unwrap();
        assert_eq!(catalog.inode(Ino(6)).unwrap(), Some(inode(6, 1)));
        let mut with_fallback = catalog.with_fallback().unwrap();
        with_fallback.sort();
        assert_eq!(with_fallback, [1, 16].map(Ino));
    }
}

#[test]
fn what_a_journal_has_to_say_of_a_catalog_of_the_format_before_counts() {
    let dir = TempDir::new().unwrap();
    Catalog::create(dir.path()).unwrap().close_whole().unwrap();
    in_columns(dir.path(), 2);
    let mut journal = Journal::create(dir.path(), 0).unwrap();
    let effects = [Effect::PutInode(Arc::new(inode(1, 9)))];
    journal.append(|into| record::encode(&effects, into)).unwrap();
    let catalog = Catalog::open_upper(dir.path()).unwrap();
    assert_eq!(catalog.inode(Ino(1)).unwrap().unwrap().mode, 9);
    assert!(!catalog.ended_orderly().unwrap());
}
