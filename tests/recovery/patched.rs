//! Large files, of which the thread has only what changed, in the hands of workers that die.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use selvedge_test_support::{Mounted, Repo, assert_inside, wait_until};

use crate::application::{Application, Talk};
use crate::random::Random;
use crate::scene::{SOON, mounting};

/// Large enough for the worker not to copy it.
const SIZE: u64 = 20 << 20;

/// The longest write: parts of blocks, whole ones, and many at once.
const LONGEST: u64 = 300_000;

const FILES: usize = 2;

/// The longest write of one who makes many, and the part of a file that they are made in.
const SHORT: u64 = 6000;
const PART: u64 = SIZE / 4;

/// Changes, each of which takes a request at least, after which a file had better be whole; and how long that takes then.
const MUCH: usize = 2800;
const WHOLE: Duration = Duration::from_millis(900);

const MUCH_USED_ROUNDS: u32 = 6;

pub(crate) fn repo() -> Repo {
    Repo::with_tree(|source| {
        for file in 0..FILES {
            fs::write(source.join(format!("large{file}")), content(file)).unwrap();
        }
    })
}

fn content(file: usize) -> Vec<u8> {
    Random::new(file as u64).bytes(usize::try_from(SIZE).unwrap())
}

/// A file in a mount, and what must be in it.
struct Large {
    file: File,
    expected: Vec<u8>,
}

impl Large {
    fn open(dir: &Path, file: usize) -> Self {
        let path = dir.join(format!("large{file}"));
        let expected = content(file);
        Self { file: File::options().read(true).write(true).open(path).unwrap(), expected }
    }

    /// Changes it in its first `reach` bytes, and its length if that is all of them; by at most `longest` bytes at once.
    fn change(&mut self, random: &mut Random, reach: u64, longest: u64) {
        let length = self.expected.len() as u64;
        let at = random.below(reach.try_into().unwrap());
        let len = 1 + random.below(longest.try_into().unwrap());
        match random.below(8) {
            0 if reach == SIZE => {
                // Cut off, and grown again: what was cut off is zeros.
                self.file.set_len(length - (at as u64).min(length / 8)).unwrap();
                self.file.set_len(SIZE).unwrap();
                self.expected.truncate(usize::try_from(length - (at as u64).min(length / 8)).unwrap());
                self.expected.resize(SIZE.try_into().unwrap(), 0);
            }
            1 => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&self.file, how, at as u64, len as u64).unwrap();
                let end = (at + len).min(self.expected.len());
                self.expected[at..end].fill(0);
            }
            2 => self.file.sync_data().unwrap(),
            _ => {
                let data = random.bytes(len.min(self.expected.len() - at));
                self.file.write_all_at(&data, at as u64).unwrap();
                self.expected[at..at + data.len()].copy_from_slice(&data);
            }
        }
        let len = len.min(self.expected.len() - at);
        let mut found = vec![0; len];
        self.file.read_exact_at(&mut found, at as u64).unwrap();
        assert!(found == self.expected[at..at + len], "{len} bytes at {at}");
    }

    fn check(&self, dir: &Path, file: usize) {
        let found = fs::read(dir.join(format!("large{file}"))).unwrap();
        let differs = found.iter().zip(&self.expected).position(|(found, expected)| found != expected);
        assert_eq!((found.len(), differs), (self.expected.len(), None), "large{file}");
    }
}

/// Changes large files at random places while workers die, as often as it asks for.
pub(crate) fn large_files(talk: &Talk) {
    assert_inside(&talk.dir);
    let (over, made) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let changing: Vec<_> = (0..FILES)
            .map(|number| {
                let (dir, over, made) = (&talk.dir, &over, &made);
                let seed = talk.seed + number as u64;
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    let mut large = Large::open(dir, number);
                    let mut changes = 0;
                    while !over.load(Ordering::Relaxed) || changes < 100 {
                        large.change(&mut random, SIZE, LONGEST);
                        changes += 1;
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    large.check(dir, number);
                })
            })
            .collect();
        // The seed says how many deaths this one asks for; others die at a point of the worker's own.
        for death in 0..talk.seed {
            // A worker that dies before it has answered anybody counts as one that cannot start.
            let before = made.load(Ordering::Relaxed);
            wait_until("changes", SOON, || made.load(Ordering::Relaxed) > before + death % 8);
            talk.replace_worker();
        }
        over.store(true, Ordering::Relaxed);
        for thread in changing {
            thread.join().unwrap();
        }
    });
}

/// Changes large files so much that they become whole, beside it and before; tells of each change.
pub(crate) fn much_used_files(talk: &Talk) {
    assert_inside(&talk.dir);
    let ended = AtomicBool::new(false);
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..FILES {
            let (ended, made) = (&ended, &made);
            scope.spawn(move || {
                let mut random = Random::new(talk.seed + number as u64);
                let mut large = Large::open(&talk.dir, number);
                let mut round = 0;
                while round < MUCH_USED_ROUNDS || !ended.load(Ordering::Relaxed) {
                    for _ in 0..MUCH {
                        large.change(&mut random, PART, SHORT);
                        talk.tell(made.fetch_add(1, Ordering::Relaxed) + 1);
                    }
                    // Nobody has it open for a moment: the next to open it may find it whole, and others before that write it.
                    let path = talk.dir.join(format!("large{number}"));
                    drop(std::mem::replace(&mut large.file, File::open("/dev/null").unwrap()));
                    large.check(&talk.dir, number);
                    let until = Instant::now() + WHOLE;
                    while Instant::now() < until {
                        if round % 2 == 0 {
                            large.file = File::options().read(true).write(true).open(&path).unwrap();
                            large.change(&mut random, PART, SHORT);
                        }
                        std::thread::sleep(Duration::from_millis(5));
                        talk.tell(made.fetch_add(1, Ordering::Relaxed) + 1);
                    }
                    large.file = File::options().read(true).write(true).open(&path).unwrap();
                    round += 1;
                }
                large.check(&talk.dir, number);
            });
        }
        talk.started();
        talk.wait_for_end();
        ended.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nobody_notices_deaths_while_large_files_change() {
    let repo = repo();
    let mount = mounting(&repo).start();
    Application::start("large files", mount.path(), 30).serve(&mount);
    assert!(mount.restarts() >= 30, "{} deaths", mount.restarts());
    mount.stop();
}

#[test]
fn nobody_notices_a_death_at_any_point_while_a_large_file_becomes_whole() {
    for point in selvedge_view::crash::POINTS.iter().filter(|point| point.starts_with("whole.")) {
        let repo = repo();
        let mount = mounting(&repo)
            .option("--passthrough")
            .option("on")
            .env("SELVEDGE_FUSE_WORKER_CRASH_AT", &format!("kill@{point}"))
            .env("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", &format!("1*kill@{point}"))
            .start();
        let mut application = Application::start("much used files", mount.path(), 7);
        application.wait_started();
        wait_until("two deaths", 4 * SOON, || mount.restarts() >= 2 || application.has_ended());
        application.end();
        assert_eq!(mount.restarts(), 2, "{point}: {:?}", mount.last_cause());
        // The third one has had its way.
        let before = passed_opens(&mount);
        (0..FILES).for_each(|file| drop(File::open(mount.path().join(format!("large{file}"))).unwrap()));
        assert_eq!(passed_opens(&mount), before + FILES as u64, "{point}");
        mount.stop();
    }
}

fn passed_opens(mount: &Mounted) -> u64 {
    mount.status(SOON).unwrap().passed_opens
}

#[test]
fn nobody_notices_a_death_at_any_point_of_a_change_of_a_large_file() {
    for point in selvedge_view::crash::POINTS.iter().filter(|point| point.starts_with("patch.")) {
        let repo = repo();
        let mount = mounting(&repo)
            .env("SELVEDGE_FUSE_WORKER_CRASH_AT", &format!("kill@{point}"))
            .env("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", &format!("1*kill@{point}"))
            .start();
        Application::start("large files", mount.path(), 0).serve(&mount);
        assert_eq!(mount.restarts(), 2, "{point}: {:?}", mount.last_cause());
        mount.stop();
    }
}
