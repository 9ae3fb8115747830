//! Operations of a view, without a kernel in between: what the worker itself adds to a request. What four threads at
//! once get of `commit` is a row of `scripts/perf`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot run has nothing to say")]

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use selvedge_bench::Threads;
use selvedge_store::Ino;
use selvedge_view::{OpenFlags, RenameMode, View};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };
/// Files of the directory that is listed.
const MANY: usize = 10_000;
/// Files of the directory that is looked into.
const SOME: usize = 250;
/// How long a chain of forks is.
const CHAIN: usize = 20;

fn threads() -> Threads {
    Threads::new(|source| {
        for (directory, files) in [("many", MANY), ("some", SOME)] {
            fs::create_dir(source.join(directory))?;
            for number in 0..files {
                fs::write(source.join(directory).join(format!("f{number}")), format!("file {number}\n"))?;
            }
        }
        Ok(fs::write(source.join("large"), vec![7; 1 << 20])?)
    })
    .unwrap()
}

fn directory(view: &View, name: &str) -> Ino {
    view.lookup(view.root(), name.as_bytes()).unwrap().ino
}

fn create(threads: &Threads, view: &View, directory: Ino, name: &str, bytes: &[u8]) {
    let (_, handle) = view.create(&threads.request(), directory, name.as_bytes(), 0o644, RW).unwrap();
    if !bytes.is_empty() {
        view.write(handle, 0, bytes).unwrap();
    }
    view.release(handle);
}

fn list(threads: &Threads, view: &View, directory: Ino) -> usize {
    let handle = view.opendir(&threads.request(), directory).unwrap();
    let mut names = 0;
    view.readdir_plus(handle, 0, &mut |_, attr| {
        names += usize::from(attr.nlink > 0);
        true
    })
    .unwrap();
    view.releasedir(handle);
    names
}

fn reading(criterion: &mut Criterion) {
    let threads = threads();
    let view = threads.open("main", None).unwrap();
    let (many, some) = (directory(&view, "many"), directory(&view, "some"));
    let mut names = (0..SOME).map(|number| format!("f{number}").into_bytes()).cycle();
    criterion.bench_function("lookup/base, nothing changed", |bencher| {
        bencher.iter(|| view.lookup(some, black_box(&names.next().unwrap())).unwrap());
    });
    create(&threads, &view, some, "new", b"new\n");
    criterion.bench_function("lookup/base, directory changed", |bencher| {
        bencher.iter(|| view.lookup(some, black_box(&names.next().unwrap())).unwrap());
    });
    criterion.bench_function("lookup/upper", |bencher| {
        bencher.iter(|| view.lookup(some, black_box(b"new")).unwrap());
    });
    criterion.bench_function("lookup/miss", |bencher| {
        bencher.iter(|| view.lookup(some, black_box(b"not there")).unwrap_err());
    });
    for (what, name, size) in
        [("4 KiB of a large base file", "large", 4096), ("128 KiB of it", "large", 131_072)]
    {
        let ino = directory(&view, name);
        let handle = view.open_file(&threads.request(), ino, OpenFlags { write: false, ..RW }).unwrap();
        criterion.bench_function(&format!("read/{what}"), |bencher| {
            bencher.iter(|| view.read(handle, black_box(65_536), size).unwrap());
        });
        view.release(handle);
    }
    criterion.bench_function("readdirplus/10 000 files", |bencher| {
        bencher.iter(|| assert_eq!(list(&threads, &view, many), MANY + 2));
    });
    view.close().unwrap();
}

fn changing(criterion: &mut Criterion) {
    let threads = threads();
    let view = threads.open("main", None).unwrap();
    let root = view.root();
    let mut number = 0_u64;
    criterion.bench_function("create and unlink", |bencher| {
        bencher.iter(|| {
            number += 1;
            let name = format!("made {number}");
            create(&threads, &view, root, &name, b"");
            view.unlink(&threads.request(), root, name.as_bytes()).unwrap();
        });
    });
    create(&threads, &view, root, "a", b"content\n");
    let mut names = [b"a", b"b"];
    criterion.bench_function("rename", |bencher| {
        bencher.iter(|| {
            let [from, to] = names;
            view.rename(&threads.request(), root, from, root, to, RenameMode::Replace).unwrap();
            names.reverse();
        });
    });
    let (_, handle) = view.create(&threads.request(), root, b"written", 0o644, RW).unwrap();
    criterion.bench_function("write/4 KiB", |bencher| {
        bencher.iter(|| view.write(handle, 0, black_box(&[1; 4096])).unwrap());
    });
    view.release(handle);
    view.close().unwrap();
}

/// A chain of forks with changes at each step: the last is read as the first is. Both are open at once, so that one
/// measurement follows the other closely.
fn chain(criterion: &mut Criterion) {
    let threads = threads();
    let mut name = "main".to_owned();
    for step in 1..=CHAIN {
        let view = threads.open(&name, None).unwrap();
        let some = directory(&view, "some");
        for number in 0..10 {
            create(&threads, &view, some, &format!("f{}", 10 * step + number), b"changed\n");
        }
        let fork = format!("fork{step}");
        threads.fork(&view, &name, &fork).unwrap();
        // Where there are many layers, they become one.
        view.tidy().unwrap();
        view.close().unwrap();
        name = fork;
    }
    let opened = ["fork1", "fork20"].map(|fork| {
        let view = threads.open(fork, None).unwrap();
        view.tidy().unwrap();
        (fork, view)
    });
    let mut group = criterion.benchmark_group("chain");
    let mut names = (0..SOME).map(|number| format!("f{number}").into_bytes()).cycle();
    for (fork, view) in &opened {
        let (many, some) = (directory(view, "many"), directory(view, "some"));
        group.bench_function(format!("lookup where nothing changed/{fork}"), |bencher| {
            bencher.iter(|| view.lookup(many, black_box(&names.next().unwrap())).unwrap());
        });
        group.bench_function(format!("lookup where there are changes/{fork}"), |bencher| {
            bencher.iter(|| view.lookup(some, black_box(&names.next().unwrap())).unwrap());
        });
        group.bench_function(format!("readdirplus where there are changes/{fork}"), |bencher| {
            bencher.iter(|| list(&threads, view, some));
        });
    }
    group.finish();
    for (_, view) in opened {
        view.close().unwrap();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = reading, changing, chain
}
criterion_main!(benches);
