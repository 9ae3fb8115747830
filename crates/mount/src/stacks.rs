//! What every thread of this process is at, written to standard error when the supervisor asks by a signal: the last
//! that is heard of a worker that hangs.
//!
//! The process is about to be killed, and something in it does not get on. So nothing here waits for another thread
//! without a limit, takes a lock of the rest, or goes through the log. A thread captures its own stack in a signal handler, into
//! memory that is set aside, whether it spins or sleeps; one that waits in the kernel and takes no signal is described by
//! what the kernel says of it. Names are looked up afterwards, by the thread that writes.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use selvedge_worker_proto::END_OF_STACKS;

use crate::sys;

/// How long a thread may take to capture its stack.
const ANSWER: Duration = Duration::from_millis(100);

/// The pause between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(1);

/// The longest name of a function that is written, in bytes: types of types of closures are longer.
const LONGEST: usize = 200;

/// Begins to heed the signal. Where that cannot be done, there are no stacks.
pub(crate) fn start() {
    let heed = || -> io::Result<()> {
        let asked = eventfd(0, EventfdFlags::CLOEXEC)?;
        let heard = asked.try_clone()?;
        let wait = move || {
            let mut count = [0; 8];
            while rustix::io::read(&asked, &mut count).is_ok() {
                write_all();
            }
        };
        thread::Builder::new().name("stacks".into()).spawn(wait)?;
        sys::heed_questions_for_stacks(heard);
        Ok(())
    };
    if let Err(error) = heed() {
        tracing::warn!("should this worker hang, it will not be known where: {error}");
    }
}

/// Writes the stack of every other thread.
fn write_all() {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut threads: Vec<i32> =
        tasks.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|id| *id != own).collect();
    threads.sort_unstable();
    for thread in threads {
        write(&of_thread(thread));
    }
    write(&format!("{END_OF_STACKS}\n"));
}

fn write(text: &str) {
    // A supervisor that does not read has no use for it.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// One line about a thread, and one for each function that it is in, the innermost first.
fn of_thread(thread: i32) -> String {
    let about =
        |name: &str| std::fs::read_to_string(format!("/proc/self/task/{thread}/{name}")).unwrap_or_default();
    let name = about("comm");
    let mut text = format!("stack of thread {thread} ({}", name.trim_end());
    let Some((frames, operation)) = captured(thread) else {
        let (call, channel) = (about("syscall"), about("wchan"));
        let call = call.split(' ').next().unwrap_or_default().trim_end();
        let _ = writeln!(text, "): it takes no signal, in system call {call}, waiting in {channel}");
        return text;
    };
    if let Some(operation) = operation {
        let _ = write!(text, ", at {operation}");
    }
    text.push_str("):\n");
    for frame in frames {
        let mut functions = Vec::new();
        backtrace::resolve(std::ptr::without_provenance_mut(frame), |symbol| {
            functions.extend(symbol.name().map(|name| name.to_string()));
        });
        for mut function in functions.into_iter().filter(|function| !is_ours(function)) {
            function.truncate(function.floor_char_boundary(LONGEST));
            let _ = writeln!(text, "    {function}");
        }
    }
    text
}

/// Whether a function is only there because the stack was captured.
fn is_ours(function: &str) -> bool {
    function.starts_with("backtrace::")
        || function.contains("::sys::on_question")
        || function.contains("__restore_rt")
}

/// Has a thread capture its stack: where each function is at, and the operation that it serves. `None` if it takes no
/// signal.
fn captured(thread: i32) -> Option<(Vec<usize>, Option<&'static str>)> {
    sys::ask_for_stack(thread);
    let deadline = Instant::now() + ANSWER;
    loop {
        if let Some(stack) = sys::stack_of(thread) {
            return Some(stack);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

    use super::*;

    #[inline(never)]
    fn the_function_that_spins(ended: &AtomicBool, number: &AtomicI32) {
        number.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
        while !ended.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }

    #[inline(never)]
    fn the_function_that_sleeps(asleep: &std::sync::mpsc::Receiver<()>, number: &AtomicI32) {
        number.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
        let _ = asleep.recv();
    }

    #[test]
    fn threads_that_spin_or_sleep_say_where() {
        start();
        let (ended, spinning, sleeping) = (AtomicBool::new(false), AtomicI32::new(0), AtomicI32::new(0));
        let (wake, asleep) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| the_function_that_spins(&ended, &spinning));
            let sleeping = &sleeping;
            scope.spawn(move || the_function_that_sleeps(&asleep, sleeping));
            for (number, function) in
                [(&spinning, "the_function_that_spins"), (sleeping, "the_function_that_sleeps")]
            {
                while number.load(Ordering::Acquire) == 0 {
                    thread::sleep(PAUSE);
                }
                let text = of_thread(number.load(Ordering::Acquire));
                assert!(text.contains(function), "{text}");
            }
            ended.store(true, Ordering::Relaxed);
            drop(wake);
        });
        let text = of_thread(i32::MAX);
        assert!(text.contains("takes no signal"), "{text}");
    }
}
