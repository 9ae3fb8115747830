//! The system calls that have no safe form: what a process inherited and has to put right before anything else,
//! and the system's user database.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::thread::UnshareFlags;

/// The highest signal number on Linux, real-time signals included.
const LAST_SIGNAL: libc::c_int = 64;

/// Empties the calling thread's signal mask. Called before there is a second thread, so every later one starts
/// with an empty mask too.
pub(crate) fn empty_signal_mask() -> io::Result<()> {
    let mut empty = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set behind the valid pointer, and `sigprocmask` only reads it; the
    // old mask is not asked for, so its pointer may be null.
    let result = unsafe {
        libc::sigemptyset(empty.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, empty.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The set of `signals`.
fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set behind the valid pointer, so it is one afterwards, to which `sigaddset` adds
    // numbers that exist.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Blocks `signals` in the calling thread, and so in all that it starts: they wait until somebody takes them.
pub(crate) fn block_signals(signals: &[libc::c_int]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: the set is only read; the old mask is not asked for, so its pointer may be null.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A descriptor from which `signals`, which are blocked, can be read without waiting (`signalfd(2)`).
pub(crate) fn signal_descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: the set is only read, and -1 asks for a new descriptor.
    let number = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sets every ignored signal back to its default, and says which were ignored.
///
/// Handlers cannot be inherited through `execve`, so a handler found here is one of Rust's runtime and stays.
pub(crate) fn default_dispositions() -> Vec<libc::c_int> {
    let mut ignored = Vec::new();
    for signal in 1..=LAST_SIGNAL {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null new action makes this a query, which writes the old action to the valid pointer. Numbers
        // that the C library keeps to itself are refused with EINVAL.
        let known = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } == 0;
        // SAFETY: zeroed memory is a valid `sigaction` (integers, and an optional function pointer), whether or
        // not the call filled it.
        let action = unsafe { action.assume_init() };
        if known && action.sa_sigaction == libc::SIG_IGN {
            ignored.push(signal);
            set_disposition(signal, libc::SIG_DFL);
        }
    }
    ignored
}

/// Ignores `signal` from now on.
pub(crate) fn ignore_signal(signal: libc::c_int) {
    set_disposition(signal, libc::SIG_IGN);
}

fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: only SIG_DFL and SIG_IGN are passed, neither of which runs code of ours in a signal's context. The
    // call fails for SIGKILL and SIGSTOP alone, which cannot have been ignored.
    unsafe { libc::signal(signal, disposition) };
}

/// Closes every descriptor from `first` up.
pub(crate) fn close_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: this runs first in `main`, before this process has opened anything above its standard streams, so
    // no owned descriptor is closed behind its owner's back: what is open up there was inherited.
    if unsafe { libc::close_range(first, libc::c_uint::MAX, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The descriptor `number`, which the program that this process was before `execve` has left open for this one; `None` if
/// there is none. No child inherits it.
pub(crate) fn left_open(number: i32) -> Option<OwnedFd> {
    // SAFETY: with F_GETFD the call only says whether the number is open.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the number was open before this program began, since descriptors that it opens are numbered around those
    // that it found, and it is in a list that the program before has written of those that are this one's: the caller
    // takes each of them once. So nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

/// Takes `name` out of the environment.
pub(crate) fn remove_environment(name: &OsStr) {
    // SAFETY: this runs first in `main`, while the process has a single thread, so nobody reads the environment
    // meanwhile.
    unsafe { std::env::remove_var(name) };
}

/// Whether the user database (`/etc/passwd`, or whatever else the system is set up with) knows the user `uid`. Where
/// it cannot be asked, the answer is yes.
pub(crate) fn has_user_name(uid: libc::uid_t) -> bool {
    /// More than any entry takes.
    const MOST: usize = 1 << 20;
    let mut buffer: Vec<libc::c_char> = vec![0; 4096];
    loop {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, the buffer for the length that is given, and nothing is
        // kept after it: of what was written only whether there is something is looked at.
        let error = unsafe {
            libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found)
        };
        match error {
            libc::ERANGE if buffer.len() < MOST => buffer.resize(buffer.len() * 2, 0),
            // What getpwuid_r(3) lists as "the given uid was not found", beside a null result without an error.
            0 | libc::ENOENT | libc::ESRCH => return !found.is_null(),
            _ => return true,
        }
    }
}

/// Makes the open descriptor `old` refer to what `new` does, for everybody who uses it, at once.
pub(crate) fn replace(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `old` stays open, under its number and with its owner; only what it refers to changes, as if it had been
    // opened anew. The callers have directories on both sides, used by name alone, so nobody holds a position or a
    // mapping of the one before.
    if unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) } >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives the calling thread its own copy of what `flags` name, which here is never the table of descriptors.
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    let flags = flags - UnshareFlags::FILES;
    // SAFETY: unsafe for descriptors alone, which would mean different files in different threads; these stay shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Becomes the program `words[0]`, looked for in `PATH`, with these words and this environment. Signal mask, ignored
/// signals, limits and descriptors pass on as they are, but for SIGPIPE: Rust's runtime has had it ignored from the
/// start. Comes back only with the reason why not.
pub(crate) fn execute(words: &[OsString], environment: &[(OsString, OsString)]) -> io::Error {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let words: Result<Vec<CString>, _> = words.iter().map(|word| text(word.as_bytes().to_vec())).collect();
    let environment: Result<Vec<CString>, _> = environment
        .iter()
        .map(|(name, value)| text([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect();
    let (words, environment) = match (words, environment) {
        (Ok(words), Ok(environment)) if !words.is_empty() => (words, environment),
        (Err(error), _) | (_, Err(error)) => return error,
        _ => return io::Error::from_raw_os_error(libc::ENOENT),
    };
    let pointers = |texts: &[CString]| {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (arguments, variables) = (pointers(&words), pointers(&environment));
    set_disposition(libc::SIGPIPE, libc::SIG_DFL);
    // SAFETY: both arrays end in a null pointer, and they and the strings that they point to live until the call
    // comes back, if it does; the first pointer is a string, because there is a word.
    unsafe { libc::execvpe(arguments[0], arguments.as_ptr(), variables.as_ptr()) };
    io::Error::last_os_error()
}
