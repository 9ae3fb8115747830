//! How much a worker has done and what it is doing, readable without any lock of the view.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::op::{self, Op};

/// More dispatch threads than this share slots, and the age of the oldest request may then be understated.
const SLOTS: usize = 64;

thread_local! {
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Counts requests and knows since when each dispatch thread has been at its present one.
///
/// The control thread reads it while a request hangs in the view, so it must not share a lock with one.
pub struct Load {
    epoch: Instant,
    served: AtomicU64,
    /// How many of each operation, by its index.
    by_operation: [AtomicU64; op::ALL.len()],
    /// Opens that were answered with a file of the host.
    passed: AtomicU64,
    /// Called when the first request has been answered.
    when_served: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Until when no request is begun, in nanoseconds after `epoch`; 0 when requests are.
    closed_until: AtomicU64,
    /// For each thread the start of its request in nanoseconds after `epoch`; 0 when idle.
    since: [AtomicU64; SLOTS],
    /// For each thread its number in the kernel; 0 before its first request.
    thread: [AtomicU32; SLOTS],
    /// What was seen of old requests when somebody last asked.
    busy: Mutex<HashMap<u32, Busy>>,
}

/// How long requests wait at most for the end of a process that has let go of them.
const CLOSED: Duration = Duration::from_secs(3);

/// The pause between two looks whether everything that was begun is answered.
const ROUND: Duration = Duration::from_millis(1);

/// What counts of the time of a request that makes system calls and moves nothing by them: they may be long ones.
const IN_CALLS: u32 = 4;

/// Who is back in the program for less than this part of the time is in one long system call.
const LEAST_OWN: u64 = 50;

/// Below this age nothing counts as stuck, and nobody looks.
const PATIENCE: Duration = Duration::from_millis(500);

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("served", &self.served()).finish_non_exhaustive()
    }
}

impl Default for Load {
    fn default() -> Self {
        Self::new()
    }
}

impl Load {
    /// Nothing served, nothing in flight.
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            served: AtomicU64::new(0),
            by_operation: [const { AtomicU64::new(0) }; op::ALL.len()],
            passed: AtomicU64::new(0),
            when_served: OnceLock::new(),
            closed_until: AtomicU64::new(0),
            since: [const { AtomicU64::new(0) }; SLOTS],
            thread: [const { AtomicU32::new(0) }; SLOTS],
            busy: Mutex::default(),
        }
    }

    /// Has `tell` called once, or twice, when at least one request has been answered, perhaps at once.
    pub(crate) fn when_served(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.when_served.set(Box::new(tell));
        // Either this sees the count, or whoever counts sees who is to be told; perhaps both.
        fence(Ordering::SeqCst);
        if self.served() > 0
            && let Some(tell) = self.when_served.get()
        {
            tell();
        }
    }

    /// Has requests that come from now on wait for this process's end, and comes back when those that were begun are
    /// answered, or have taken `patience`. A request that waits, or has not been answered, is sent again to whoever takes
    /// the mount over. Should the end not come within [`CLOSED`], everything goes on.
    pub(crate) fn close(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let closed = u64::try_from((patience + CLOSED).as_nanos()).unwrap_or(u64::MAX);
        self.closed_until.store(self.now().saturating_add(closed), Ordering::Relaxed);
        while self.oldest().is_some() && Instant::now() < until {
            thread::sleep(ROUND);
        }
    }

    /// Waits until every request that a dispatch thread has read by now is answered, for so long at most; tells whether they
    /// are.
    pub(crate) fn settle(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let known = self.thread.iter().map(|thread| thread.load(Ordering::Relaxed));
        let threads = dispatch_threads().chain(known.filter(|thread| *thread != 0));
        let mut waited_for: HashMap<u32, Option<u64>> = threads.map(|thread| (thread, None)).collect();
        loop {
            let states = thread_states();
            waited_for.retain(|thread, request| !self.has_answered(*thread, states.get(thread), request));
            if waited_for.is_empty() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(ROUND);
        }
    }

    /// Whether a dispatch thread has answered what it had read when it was first looked at; `request` is what it was at, by
    /// its start. Between reading a request and starting it a thread runs; one that sleeps and is at none waits for the next.
    fn has_answered(&self, thread: u32, state: Option<&char>, request: &mut Option<u64>) -> bool {
        let slot = self.thread.iter().position(|known| known.load(Ordering::Relaxed) == thread);
        let since = slot.map_or(0, |slot| self.since[slot].load(Ordering::Acquire));
        match *request {
            Some(first) => since != first,
            None if since != 0 => {
                *request = Some(since);
                false
            }
            None => matches!(state, Some('S') | None),
        }
    }

    /// Goes on with requests.
    pub(crate) fn reopen(&self) {
        self.closed_until.store(0, Ordering::Relaxed);
    }

    /// Comes back when requests may be begun.
    pub(crate) fn admit(&self) {
        loop {
            let until = self.closed_until.load(Ordering::Relaxed);
            if until == 0 || self.now() >= until {
                return;
            }
            thread::sleep(ROUND);
        }
    }

    /// Notes that this thread starts a request, which ends when the guard is dropped.
    pub(crate) fn enter(&self, op: &Op) -> InFlight<'_> {
        self.by_operation[op.index].fetch_add(1, Ordering::Relaxed);
        let number = slot();
        let slot = &self.since[number];
        if self.thread[number].load(Ordering::Relaxed) == 0 {
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            self.thread[number].store(thread.unsigned_abs(), Ordering::Relaxed);
        }
        slot.store(self.now(), Ordering::Relaxed);
        InFlight { load: self, slot }
    }

    /// Requests answered so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Counts a file that was opened and that the kernel reads and writes itself.
    pub(crate) fn passed(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Files opened so far that the kernel reads and writes itself.
    pub fn passed_opens(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Requests so far, by the operation's name.
    pub fn by_operation(&self) -> BTreeMap<String, u64> {
        let counts = op::ALL.iter().zip(&self.by_operation);
        let counts = counts.map(|(op, count)| (op.name.to_owned(), count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Age of the oldest request that is being worked on.
    pub fn oldest(&self) -> Option<Duration> {
        let starts = self.since.iter().map(|since| since.load(Ordering::Acquire));
        let first = starts.filter(|start| *start != 0).min()?;
        Some(Duration::from_nanos(self.now().saturating_sub(first)))
    }

    /// Age of the oldest request that gets nowhere, because it sleeps or because it spins.
    pub fn stuck(&self) -> Option<Duration> {
        self.oldest().filter(|age| *age >= PATIENCE)?;
        self.asleep().max(self.spinning())
    }

    /// For how long the oldest request has been seen to spin: its thread has not rested, was in the
    /// program itself and not in one long system call, and has moved not a single byte. That is known from the first
    /// question on that found it old. A thread that was mostly in system calls, many of them, has to go on so for
    /// [`IN_CALLS`] times as long.
    fn spinning(&self) -> Option<Duration> {
        let mut before = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut now, mut longest) = (HashMap::new(), None);
        for (since, thread) in self.since.iter().zip(&self.thread) {
            let (since, thread) = (since.load(Ordering::Acquire), thread.load(Ordering::Relaxed));
            if since == 0 || self.now().saturating_sub(since) < nanoseconds(PATIENCE) {
                continue;
            }
            let Some(seen) = Busy::of(thread, since) else { continue };
            let first = before.remove(&thread).filter(|first| first.is_same(&seen)).unwrap_or(seen);
            longest = longest.max(first.spun_until(&seen));
            now.insert(thread, first);
        }
        *before = now;
        longest.filter(|spun| *spun >= PATIENCE)
    }

    /// Age of the oldest request that sleeps: nobody at work on another request runs, and no thread of this process waits
    /// for the disk, for which all others may wait.
    fn asleep(&self) -> Option<Duration> {
        let states = thread_states();
        if states.values().any(|state| *state == 'D') {
            return None;
        }
        let now = self.now();
        let mut oldest = None;
        for (since, thread) in self.since.iter().zip(&self.thread) {
            let since = since.load(Ordering::Acquire);
            if since != 0 {
                match states.get(&thread.load(Ordering::Relaxed)) {
                    Some('R') | None => return None,
                    Some(_) => oldest = oldest.max(Some(now.saturating_sub(since))),
                }
            }
        }
        oldest.map(Duration::from_nanos).filter(|age| *age >= PATIENCE)
    }

    /// Nanoseconds since `epoch`, never 0.
    fn now(&self) -> u64 {
        nanoseconds(self.epoch.elapsed()).max(1)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A request that is being worked on.
#[derive(Debug)]
pub(crate) struct InFlight<'load> {
    load: &'load Load,
    slot: &'load AtomicU64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        // In this order, so that whoever sees nothing in flight and then asks for the count has it counted.
        let first = self.load.served.fetch_add(1, Ordering::Relaxed) == 0;
        self.slot.store(0, Ordering::Release);
        if first {
            fence(Ordering::SeqCst);
            if let Some(tell) = self.load.when_served.get() {
                tell();
            }
        }
    }
}

/// What a thread that is at an old request had done by some instant.
#[derive(Debug, Clone, Copy)]
struct Busy {
    /// The request, known by its start.
    since: u64,
    at: Instant,
    /// Time on a processor or waiting for one, in nanoseconds.
    awake: u64,
    /// How often it gave its processor up to wait for something.
    rests: u64,
    /// Time on a processor, in the program and in the kernel, in clock ticks.
    user: u64,
    system: u64,
    /// Bytes read and written, and calls that did so.
    moved: [u64; 4],
}

impl Busy {
    /// As the kernel has it; `None` where it keeps no such account.
    fn of(thread: u32, since: u64) -> Option<Self> {
        let about = |name: &str| std::fs::read_to_string(format!("/proc/self/task/{thread}/{name}")).ok();
        let stat = about("stat")?;
        // Fields 14 and 15 of proc_pid_stat(5); the third is the first behind the name.
        let mut times = stat.rsplit_once(") ")?.1.split(' ').skip(11).map_while(|field| field.parse().ok());
        let (user, system) = (times.next()?, times.next()?);
        let turns = about("schedstat")?;
        let mut turns = turns.split(' ').map_while(|field| field.parse::<u64>().ok());
        let awake = turns.next()?.saturating_add(turns.next()?);
        let status = about("status")?;
        let rests = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        let rests = rests.trim().parse().ok()?;
        let account = about("io")?;
        let count = |name| account.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        let moved = [count("rchar:")?, count("wchar:")?, count("syscr:")?, count("syscw:")?];
        Some(Self { since, at: Instant::now(), awake, rests, user, system, moved })
    }

    /// Whether it is the same request, which has got nowhere since.
    fn is_same(&self, later: &Self) -> bool {
        (self.since, self.moved) == (later.since, later.moved)
    }

    /// How long it has spun by `later`, if it has. Waiting for a processor is no rest: on a busy machine one that spins gets
    /// few of its turns. What the host of a virtual machine takes counts as no time of the thread at all, so it has not
    /// rested either if it never gave its processor up, but then only the time counts that it had or waited for.
    fn spun_until(&self, later: &Self) -> Option<Duration> {
        let passed = later.at.saturating_duration_since(self.at);
        let awake = later.awake.saturating_sub(self.awake);
        let (user, system) = (later.user - self.user, later.system - self.system);
        let mostly_awake = awake.saturating_mul(10) >= nanoseconds(passed).saturating_mul(9);
        let spun = match (mostly_awake, self.rests == later.rests) {
            (true, _) => Some(passed),
            (false, true) => Some(Duration::from_nanos(awake)),
            (false, false) => None,
        };
        let calls_apart = user > 0 && LEAST_OWN * user >= system;
        let mostly_own = 2 * user >= system;
        spun.filter(|_| calls_apart).map(|spun| if mostly_own { spun } else { spun / IN_CALLS })
    }
}

/// What each thread of this process does, as `proc_pid_stat(5)` has it.
fn thread_states() -> HashMap<u32, char> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let state = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before it may have spaces and brackets of its own.
        Some((number, stat.rsplit_once(") ")?.1.chars().next()?))
    };
    threads.filter_map(state).collect()
}

/// The threads that read requests: fuser names them.
fn dispatch_threads() -> impl Iterator<Item = u32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    threads.filter_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        name.starts_with("fuser-").then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    })
}

fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SLOT.with(|slot| {
        slot.get().unwrap_or_else(|| {
            let taken = NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS;
            slot.set(Some(taken));
            taken
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_request_in_flight_is_seen_until_it_is_answered() {
        let load = Load::new();
        assert_eq!(load.oldest(), None);
        let first = load.enter(op::GETATTR);
        std::thread::sleep(Duration::from_millis(20));
        std::thread::scope(|scope| {
            scope.spawn(|| drop(load.enter(op::GETATTR)));
        });
        assert!(load.oldest().unwrap() >= Duration::from_millis(20));
        assert_eq!(load.stuck(), None, "a thread that runs");
        assert_eq!(load.served(), 1);
        drop(first);
        assert_eq!(load.oldest(), None);
        assert_eq!(load.served(), 2);
        assert_eq!(load.by_operation(), BTreeMap::from([("getattr".to_owned(), 2)]));
    }

    #[test]
    fn who_lets_go_answers_what_was_begun_and_begins_nothing() {
        let load = Load::new();
        let begun = load.enter(op::LOOKUP);
        std::thread::scope(|scope| {
            let (load, later) = (&load, Duration::from_millis(30));
            let closing = scope.spawn(move || load.close(Duration::from_secs(10)));
            std::thread::sleep(later);
            assert!(!closing.is_finished());
            let waiting = scope.spawn(|| load.admit());
            drop(begun);
            closing.join().unwrap();
            std::thread::sleep(later);
            assert!(!waiting.is_finished());
            load.reopen();
        });
        load.close(Duration::ZERO);
        let begun = Instant::now();
        load.admit();
        assert!(begun.elapsed() > CLOSED / 2, "it goes on if the end does not come");
    }

    #[test]
    fn who_waits_for_what_was_read_waits_for_nothing_that_is_read_later() {
        use std::sync::mpsc::channel;
        let load = Load::new();
        assert!(load.settle(Duration::from_secs(10)), "there is no dispatch thread");
        std::thread::scope(|scope| {
            let (load, (request, requests), (told, heard)) = (&load, channel::<()>(), channel());
            // It waits for requests as for the device; the second is answered only when the test is over.
            let dispatch = move || {
                for _ in 0..2 {
                    if requests.recv().is_err() {
                        return;
                    }
                    let _at_work = load.enter(op::WRITE);
                    told.send(()).unwrap();
                    let _ = requests.recv();
                }
            };
            std::thread::Builder::new().name("fuser-0".to_owned()).spawn_scoped(scope, dispatch).unwrap();
            assert!(load.settle(Duration::from_secs(10)), "one that waits for the device");
            request.send(()).unwrap();
            heard.recv().unwrap();
            assert!(!load.settle(Duration::from_millis(20)), "one that is at work");
            let waiting = scope.spawn(|| load.settle(Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(30));
            assert!(!waiting.is_finished());
            for _ in 0..2 {
                request.send(()).unwrap();
            }
            heard.recv().unwrap();
            assert!(waiting.join().unwrap());
            drop(request);
        });
    }

    /// What is told of a request that does `work` again and again.
    fn stuck_at(work: impl Fn() + Sync, looks: u32) -> Option<Duration> {
        use std::sync::atomic::AtomicBool;
        let (load, ended) = (Load::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _request = load.enter(op::LOOKUP);
                while !ended.load(Ordering::Relaxed) {
                    work();
                }
            });
            let (begun, mut stuck) = (Instant::now(), None);
            while stuck.is_none() && begun.elapsed() < PATIENCE * looks {
                std::thread::sleep(Duration::from_millis(50));
                stuck = load.stuck();
            }
            ended.store(true, Ordering::Relaxed);
            stuck
        })
    }

    #[test]
    fn a_request_that_spins_is_stuck_and_one_that_moves_bytes_is_not() {
        assert!(stuck_at(std::hint::spin_loop, 40).is_some());
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        let moves = || std::io::Read::read_exact(&mut &zeros, &mut [0; 4096]).unwrap();
        assert_eq!(stuck_at(moves, 4), None);
    }

    #[test]
    fn a_request_that_calls_the_kernel_for_ever_and_moves_nothing_is_stuck() {
        assert!(stuck_at(|| drop(std::fs::metadata("/proc/self")), 80).is_some());
    }

    #[test]
    fn a_request_whose_thread_sleeps_is_stuck() {
        let load = Load::new();
        let (wake, asleep) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let load = &load;
            scope.spawn(move || {
                let _request = load.enter(op::GETATTR);
                let _ = asleep.recv();
            });
            let deadline = Instant::now() + Duration::from_secs(10);
            while load.stuck().is_none() {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(load.stuck().is_some_and(|age| age >= PATIENCE));
            drop(wake);
        });
        assert_eq!(load.stuck(), None);
    }
}
