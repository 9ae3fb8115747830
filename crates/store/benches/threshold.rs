//! How large a blob must be to get a file of its own: `docs/design/store-threshold.md`.
//!
//! `cargo bench -p selvedge-store --bench threshold -- SOURCE WORK`: puts every file of SOURCE into
//! stores with different limits in WORK (on the disk to be measured), reads all of it back with a
//! warm cache, and prints medians of interleaved runs.

#![expect(clippy::unwrap_used, reason = "a measurement that fails says where")]

use selvedge_store::backend::LocalBackend;
use selvedge_store::{ObjectId, Store};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LIMITS: [u64; 5] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10];
const RUNS: usize = 3;
const THREADS: usize = 2;

struct Figures {
    write: Vec<Duration>,
    read: Vec<Duration>,
    disk: u64,
}

fn main() {
    // `cargo bench` adds an argument of its own.
    let mut arguments = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    let (Some(source), Some(work)) = (arguments.next(), arguments.next()) else {
        println!("usage: threshold SOURCE WORK");
        return;
    };
    let files = files_of(source.as_ref());
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    println!("{} files, {} MiB", files.len(), total >> 20);
    let mut all = LIMITS.map(|_| Figures { write: Vec::new(), read: Vec::new(), disk: 0 });
    for _ in 0..RUNS {
        for (limit, figures) in LIMITS.iter().zip(&mut all) {
            measure(&files, work.as_ref(), *limit, figures);
        }
    }
    println!(
        "{:>10} {:>12} {:>12} {:>10} {:>12}",
        "limit KiB", "write ms", "read ms", "disk MiB", "own files"
    );
    for (limit, figures) in LIMITS.iter().zip(&mut all) {
        let own = files.iter().filter(|(_, size)| size >= limit).count();
        let (write, read) = (median(&mut figures.write), median(&mut figures.read));
        println!("{:>10} {write:>12} {read:>12} {:>10} {own:>12}", limit >> 10, figures.disk >> 20);
    }
}

fn median(runs: &mut [Duration]) -> u128 {
    runs.sort_unstable();
    runs[runs.len() / 2].as_millis()
}

fn files_of(source: &Path) -> Vec<(PathBuf, u64)> {
    let (mut files, mut directories) = (Vec::new(), vec![source.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            if stat.is_dir() {
                directories.push(path);
            } else if stat.is_file() {
                files.push((path, stat.len()));
            }
        }
    }
    files
}

fn measure(files: &[(PathBuf, u64)], work: &Path, limit: u64, figures: &mut Figures) {
    let dir = tempfile::tempdir_in(work).unwrap();
    LocalBackend::create(dir.path()).unwrap();
    let open = || Store::new(Arc::new(LocalBackend::open_with(dir.path(), limit).unwrap()));
    let store = open();
    let began = Instant::now();
    let ids =
        in_threads(files, |(path, size)| (store.put_blob(&std::fs::read(path).unwrap()).unwrap().0, *size));
    store.sync().unwrap();
    figures.write.push(began.elapsed());
    drop(store);
    figures.disk = disk_use(dir.path());
    let store = open();
    let began = Instant::now();
    in_threads(&ids, |(id, size)| read(&store, id, *size));
    figures.read.push(began.elapsed());
}

fn read(store: &Store, id: &ObjectId, size: u64) {
    let reader = store.open_blob(id, size).unwrap();
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    while at < size {
        at += reader.read_at(&mut buffer, at).unwrap() as u64;
    }
}

fn in_threads<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let one = || {
        let mut done = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(work(item));
        }
        done
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn disk_use(dir: &Path) -> u64 {
    let mut files = files_of(dir);
    files.push((dir.to_owned(), 0));
    files.iter().map(|(path, _)| path.symlink_metadata().unwrap().blocks() * 512).sum()
}
