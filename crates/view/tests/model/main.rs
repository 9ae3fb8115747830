//! Random operations on the threads of a repository and on reference models, with views closed, killed, frozen, snapshot
//! and forked, threads deleted and garbage removed between steps, by one process or by several at once.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod family;
mod known;
mod line;
mod op;
mod reference;
#[path = "../support/mod.rs"]
mod support;

use family::Family;
use op::{Step, step, step_or_kill};
use proptest::prelude::*;
use selvedge_view::Patching;
use std::time::Duration;
use support::{Base, Bench};

const NAMES: &[&[u8]] = &[b"a", b"b", b"c", b"d", b"\xff\xfe", b"sub"];

fn base() -> Base {
    let file = |ino, nlink, bytes: &[u8]| Base::File { ino, nlink, bytes: bytes.to_vec() };
    Base::Dir {
        ino: 2,
        entries: vec![
            ("a", file(10, 2, b"alpha")),
            (
                "b",
                Base::Dir {
                    ino: 20,
                    entries: vec![
                        ("a", file(21, 1, &[7; 9000])),
                        ("b", file(10, 2, b"alpha")),
                        ("sub", Base::Dir { ino: 22, entries: vec![("c", file(23, 1, b""))] }),
                    ],
                },
            ),
            ("c", Base::Link { ino: 30, target: "b/a" }),
            ("sub", Base::Dir { ino: 40, entries: vec![] }),
        ],
    }
}

fn bench(answered_after: u64, block: Option<u64>) -> Bench {
    let mut bench = Bench::new_in_memory(&base());
    // `gc` knows no other: to it a layer of another boot is one that lost its power.
    bench.boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    bench.answered_after = Duration::from_millis(answered_after);
    // What was read or written once becomes whole as soon as somebody looks.
    bench.patching = block.map(|block| Patching { from: 1, block, request: u64::MAX });
    bench.passing = true;
    // Any frozen layer is made another that says the same.
    bench.deepest = 0;
    bench
}

/// Layers that a snapshot has go at once, beside later changes, or with the end.
fn answered_after() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(3), Just(3_600_000)]
}

/// Files are copied at their first change, or patched, in blocks of one size or another.
fn block() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), Just(Some(16)), Just(Some(1024))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn threads_equal_their_models_through_close_kill_freeze_snapshot_fork_delete_and_gc(
        steps in prop::collection::vec(step_or_kill(), 1..80),
        answered_after in answered_after(),
        block in block(),
    ) {
        let mut bench = bench(answered_after, block);
        let mut family = Family::new(&bench, &base(), "main");
        for step in &steps {
            match step {
                Step::Kill => family.kill(&mut bench),
                step => family.apply(&bench, step),
            }
        }
        family.kill(&mut bench);
        family.end(&bench);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn threads_that_are_changed_forked_deleted_and_swept_all_at_once_equal_their_models(
        steps in prop::collection::vec(prop::collection::vec(step(), 20..80), 3),
        answered_after in answered_after(),
        block in block(),
    ) {
        let bench = bench(answered_after, block);
        // All of them share what the first has.
        for name in ["second", "third"] {
            let main = bench.repo().refs().thread(&support::main()).unwrap();
            bench.fork(&main, name);
        }
        std::thread::scope(|scope| {
            for (name, steps) in ["main", "second", "third"].into_iter().zip(&steps) {
                let bench = &bench;
                scope.spawn(move || {
                    let mut family = Family::new(bench, &base(), name);
                    for step in steps {
                        family.apply(bench, step);
                    }
                    family.end(bench);
                });
            }
        });
    }
}
