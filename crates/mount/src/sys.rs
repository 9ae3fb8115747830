//! The exempt corner: what safe interfaces cannot say.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use fuser::{FileAttr, FileHandle, FopenFlags, ReplyCreate, ReplyOpen};
use rustix::io::DupFlags;
use rustix::mm::{Advice, madvise};

use crate::resident::{self, BUFFER, ResidentBuffers, USED};

/// Makes the number of `target` name what `source` names, atomically, as dup3(2) does with `flags`. What
/// `target` named before is closed.
pub(crate) fn replace(target: BorrowedFd<'_>, source: BorrowedFd<'_>, flags: DupFlags) -> io::Result<()> {
    // SAFETY: the number is open for the whole call, since it is borrowed, and `ManuallyDrop` keeps this second
    // owner from ever closing it. Its real owner goes on owning the number, which is all that an owner of a
    // descriptor relies on: dup3 never leaves it closed or free for others in between.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(target.as_raw_fd()) });
    Ok(rustix::io::dup3(source, &mut target, flags)?)
}

// SAFETY: every call is passed on to the system's allocator with the layout it came with, and its answer is
// returned unchanged; `populate` changes neither the content nor the ownership of the memory.
unsafe impl GlobalAlloc for ResidentBuffers {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` are the ones asked for.
        let start = unsafe { System.alloc(layout) };
        populate(start, layout);
        start
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { System.alloc_zeroed(layout) };
        populate(start, layout);
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: `start` came from `System` with this layout, as the caller promises it came from us.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above. A buffer that grows is moved with its resident pages; no request buffer grows.
        unsafe { System.realloc(start, layout, size) }
    }
}

/// Makes the used part of a request buffer resident. A kernel that cannot (before 5.14) leaves it as it was.
fn populate(start: *mut u8, layout: Layout) {
    if start.is_null() || layout.size() < BUFFER || !resident::is_wanted() {
        return;
    }
    let page = rustix::param::page_size();
    let before = start.addr() % page;
    // SAFETY: the range begins at the page that holds the allocation's first byte and ends within the
    // allocation, because `USED` is smaller than `BUFFER`. Populating writes to no byte: it only breaks
    // copy-on-write, so a page that is shared with a neighbour keeps its content.
    let _ = unsafe { madvise(start.sub(before).cast(), USED + before, Advice::LinuxPopulateWrite) };
}

/// Answers an OPEN with a file that is passed through.
pub(crate) fn reply_opened(reply: ReplyOpen, handle: FileHandle, id: u32) {
    // SAFETY: the number was given to this connection; whoever gives it up does so only when no handle is left, and
    // this one is noted. The wrapper, which would close the number, is taken apart.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(handle, FopenFlags::empty(), &backing);
    let _ = backing.into_raw();
}

/// Answers a CREATE with a file that is passed through.
pub(crate) fn reply_created(
    reply: ReplyCreate,
    (ttl, attr, generation): (&std::time::Duration, &FileAttr, fuser::Generation),
    handle: FileHandle,
    id: u32,
) {
    // SAFETY: as above.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.created_passthrough(ttl, attr, generation, handle, FopenFlags::empty(), &backing);
    let _ = backing.into_raw();
}

/// Signals by which a process dies of what it does itself.
const FAULTS: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// Where [`on_fault`] notes what this process dies of; -1 is nowhere.
static NOTES: AtomicI32 = AtomicI32::new(-1);

/// Has faults of this process noted through `notes`, a duplicate that is never closed.
pub(crate) fn note_faults(notes: OwnedFd) {
    if NOTES.swap(notes.into_raw_fd(), Ordering::AcqRel) >= 0 {
        return;
    }
    for signal in FAULTS {
        // SAFETY: zeroed memory is a valid `sigaction` (integers, and an optional function pointer).
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fault as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: `on_fault` has the type that SA_SIGINFO asks for and does only what a handler may; the old action is
        // not asked for.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// The descriptor for notes.
pub(crate) fn notes() -> Option<BorrowedFd<'static>> {
    let number = NOTES.load(Ordering::Acquire);
    // SAFETY: whoever stored the number gave the descriptor away for good, so it stays open as long as this process.
    (number >= 0).then(|| unsafe { BorrowedFd::borrow_raw(number) })
}

/// Notes the request that this thread is at, unless the signal came from another process, and lets the signal do what it
/// does: the action is the default one again (`SA_RESETHAND`), a fault happens again on return, and what was sent is
/// sent again.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`; who sent it is set for every code up to 0, and
    // `getpid` and `raise` may be called in a handler.
    unsafe {
        let sent = (*info).si_code <= 0;
        if !sent || (*info).si_pid() == libc::getpid() {
            crate::poison::note();
        }
        if sent {
            libc::raise(signal);
        }
    }
}

/// The signal by which a supervisor asks for the stacks of all threads, and by which each is asked for its own.
const QUESTION: libc::c_int = libc::SIGUSR2;

/// The most functions of a stack that are kept.
const FRAMES: usize = 64;

/// Where a question from outside is passed on to; -1 is nowhere.
static QUESTIONS: AtomicI32 = AtomicI32::new(-1);

/// The thread that is asked for its stack, and the one whose stack stands below.
static ASKED: AtomicI32 = AtomicI32::new(0);
static ANSWERED: AtomicI32 = AtomicI32::new(0);

/// A stack: the operation that is served (address and length of its name), and where each function is at; 0 ends it.
static OPERATION: (AtomicPtr<u8>, AtomicUsize) = (AtomicPtr::new(std::ptr::null_mut()), AtomicUsize::new(0));
static STACK: [AtomicUsize; FRAMES] = [const { AtomicUsize::new(0) }; FRAMES];

/// Has questions for stacks counted in `questions`, an eventfd that is never closed.
pub(crate) fn heed_questions_for_stacks(questions: OwnedFd) {
    QUESTIONS.store(questions.into_raw_fd(), Ordering::Release);
    // SAFETY: zeroed memory is a valid `sigaction` (integers, and an optional function pointer).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_question as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `on_question` has the type that SA_SIGINFO asks for and does only what a handler may; the old action is not
    // asked for.
    unsafe { libc::sigaction(QUESTION, &raw const action, std::ptr::null_mut()) };
}

/// Asks a thread of this process for its stack.
pub(crate) fn ask_for_stack(thread: libc::pid_t) {
    ANSWERED.store(0, Ordering::Release);
    ASKED.store(thread, Ordering::Release);
    // SAFETY: tgkill(2) takes three integers, and a thread that is gone is no target.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, QUESTION) };
}

/// What the thread that was asked last has answered, if it has.
pub(crate) fn stack_of(thread: libc::pid_t) -> Option<(Vec<usize>, Option<&'static str>)> {
    if ANSWERED.load(Ordering::Acquire) != thread {
        return None;
    }
    let frames = STACK.iter().map(|frame| frame.load(Ordering::Relaxed)).take_while(|frame| *frame != 0);
    let (start, length) = (OPERATION.0.load(Ordering::Relaxed), OPERATION.1.load(Ordering::Relaxed));
    // SAFETY: whoever stored address and length took them from one string that lives as long as the process, and the
    // answer is published after both.
    let operation = (!start.is_null())
        .then(|| unsafe { std::str::from_utf8_unchecked(std::slice::from_raw_parts(start, length)) });
    Some((frames.collect(), operation))
}

/// Passes a question from outside on; one from this process is answered with this thread's stack. It may interrupt
/// anything, so it takes no lock but the dynamic loader's, allocates nothing, and leaves `errno` as it was.
extern "C" fn on_question(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the C library gives each thread an `errno` of its own, which this thread may read and write; with
    // SA_SIGINFO the kernel passes a valid `siginfo_t`, in which the sender is set for signals that a process sent;
    // `getpid`, `gettid` and `write` may be called in a handler, and the descriptor stays open. `trace_unsynchronized` wants
    // no other thread to trace meanwhile: one is asked at a time, and one that answers late finds that another is.
    unsafe {
        let errno = *libc::__errno_location();
        let of_our_own = (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
        let thread = libc::gettid();
        if !of_our_own {
            let one = 1_u64;
            libc::write(QUESTIONS.load(Ordering::Acquire), (&raw const one).cast(), size_of::<u64>());
        } else if ASKED.load(Ordering::Acquire) == thread {
            let operation = crate::poison::operation().unwrap_or_default();
            let start =
                if operation.is_empty() { std::ptr::null_mut() } else { operation.as_ptr().cast_mut() };
            OPERATION.0.store(start, Ordering::Relaxed);
            OPERATION.1.store(operation.len(), Ordering::Relaxed);
            let mut frames = STACK.iter();
            backtrace::trace_unsynchronized(|frame| {
                frames.next().is_some_and(|place| {
                    place.store(frame.ip().addr(), Ordering::Relaxed);
                    true
                })
            });
            if let Some(place) = frames.next() {
                place.store(0, Ordering::Relaxed);
            }
            ANSWERED.store(thread, Ordering::Release);
        }
        *libc::__errno_location() = errno;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which pages of `[start, start + length)` are resident.
    fn pages_in_memory(start: *mut u8, length: usize) -> Vec<bool> {
        let page = rustix::param::page_size();
        let before = start.addr() % page;
        let mut pages = vec![0_u8; (length + before).div_ceil(page)];
        // SAFETY: the range is mapped, being part of an allocation, and the vector has a byte for each page.
        let outcome = unsafe { libc::mincore(start.sub(before).cast(), length + before, pages.as_mut_ptr()) };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
        pages.iter().map(|page| page & 1 == 1).collect()
    }

    #[test]
    fn the_used_part_of_a_request_buffer_is_resident_from_the_start() {
        let layout = Layout::from_size_align(BUFFER + 4096, 1).unwrap();
        // SAFETY: the layout is not empty, and each allocation is freed with the layout it was made with.
        let (plain, ours) = unsafe { (System.alloc_zeroed(layout), ResidentBuffers.alloc_zeroed(layout)) };
        let (plain_pages, our_pages) = (pages_in_memory(plain, USED), pages_in_memory(ours, USED));
        let beyond = pages_in_memory(ours.wrapping_add(2 * USED), USED);
        // SAFETY: as above.
        unsafe {
            System.dealloc(plain, layout);
            ResidentBuffers.dealloc(ours, layout);
        }
        assert!(our_pages.iter().all(|resident| *resident), "{our_pages:?}");
        assert!(!beyond.iter().all(|resident| *resident), "the whole buffer was made resident");
        // Otherwise this test proves nothing.
        assert!(
            !plain_pages.iter().all(|resident| *resident),
            "the system's buffers are resident by themselves"
        );
    }

    #[test]
    fn a_replaced_descriptor_reads_the_other_file() {
        use std::io::Read as _;
        use std::os::fd::AsFd as _;
        let mut target = std::fs::File::open("/dev/null").unwrap();
        let source = std::fs::File::open("/dev/zero").unwrap();
        replace(target.as_fd(), source.as_fd(), DupFlags::CLOEXEC).unwrap();
        let mut byte = [1];
        assert_eq!(target.read(&mut byte).unwrap(), 1);
        assert_eq!(byte, [0]);
        assert!(rustix::io::fcntl_getfd(&target).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}
