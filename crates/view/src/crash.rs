//! Named points at which a test lets the shipped worker die.
//!
//! A point is armed once, by name, from `SELVEDGE_FUSE_WORKER_CRASH_AT=[panic@|exit@|hang@|spin@|kill@]NAME[/request][:N]`; the
//! process then ends the N-th time (default: the first) it passes there: by abort(3), by a panic with the `panic@` prefix,
//! or as if it had nothing more to do, by exit(3) with code 0, with the `exit@` prefix. With `hang@` the thread that
//! passes there stays there, with `spin@` at work for ever; `kill@` is a SIGKILL, for which nobody blames what the thread was at. With `/request` only
//! threads count that serve a request: what the view does by itself passes by. An unarmed point costs one load.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every point of this crate, in the order of a mutation's life.
pub const POINTS: &[&str] = &[
    "upper.before-ref",
    "commit.before",
    "commit.after",
    "commit.again",
    "copy-up.before-rename",
    "copy-up.before-commit",
    "copy-up.after-commit",
    "patch.before-claim",
    "patch.after-claim",
    "patch.before-shorten",
    "whole.before-rename",
    "whole.before-commit",
    "whole.after-commit",
    "truncate.before",
    "truncate.after",
    "write.before",
    "write.after",
    "allocate.before",
    "allocate.after",
    "reap.before-commit",
    "reap.before-delete",
    "sync.before",
    "freeze.before-ref",
    "freeze.after-ref",
    "seal.before",
    "snapshot.frozen",
    "snapshot.built",
    "snapshot.before-ref",
    "snapshot.after-ref",
    "merge.read",
    "merge.written",
    "collapse.before-ref",
    "collapse.after-ref",
    "checkpoint.before",
    "journal.before-write",
    "journal.before-commit",
    "journal.after-commit",
    "journal.before-remove",
];

struct Armed {
    name: String,
    /// Whether only threads that serve a request pass.
    in_request: bool,
    passes_left: AtomicU64,
    by: Ending,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Abort,
    Panic,
    Exit,
    Hang,
    Spin,
    Kill,
}

impl Ending {
    /// Takes the prefix off `spec`.
    fn split(spec: &str) -> (Self, &str) {
        let prefixed = [
            ("panic@", Self::Panic),
            ("exit@", Self::Exit),
            ("hang@", Self::Hang),
            ("spin@", Self::Spin),
            ("kill@", Self::Kill),
        ];
        let found = prefixed.into_iter().find_map(|(prefix, by)| Some((by, spec.strip_prefix(prefix)?)));
        found.unwrap_or((Self::Abort, spec))
    }
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// What limits a point to threads that serve a request.
const IN_REQUEST: &str = "/request";

thread_local! {
    static REQUEST: Cell<bool> = const { Cell::new(false) };
}

/// Notes that this thread serves requests, and nothing else.
pub fn serving() {
    if ARMED.get().is_some() {
        REQUEST.set(true);
    }
}

/// Why a crash point could not be armed.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The text is not `[panic@|exit@|hang@|spin@|kill@]NAME[/request][:N]` with N ≥ 1.
    #[error("\"{0}\" is not a crash point: expected [panic@|exit@|hang@|spin@|kill@]NAME[/request][:N]")]
    Malformed(String),
    /// No point has this name.
    #[error("no crash point is called \"{0}\"")]
    Unknown(String),
    /// One point is armed already.
    #[error("a crash point is armed already")]
    AlreadyArmed,
}

/// Arms the point that `spec` names; `known` lists the points of the crates above this one.
///
/// # Errors
/// When the text is malformed or names no point, or when a point is armed already.
pub fn arm(spec: &str, known: &[&str]) -> Result<(), ArmError> {
    let (by, rest) = Ending::split(spec);
    let (name, passes) = match rest.split_once(':') {
        None => (rest, 1),
        Some((name, n)) => (name, n.parse().map_err(|_| ArmError::Malformed(spec.to_owned()))?),
    };
    if passes == 0 {
        return Err(ArmError::Malformed(spec.to_owned()));
    }
    let (name, in_request) = match name.strip_suffix(IN_REQUEST) {
        None => (name, false),
        Some(name) => (name, true),
    };
    if !POINTS.contains(&name) && !known.contains(&name) {
        return Err(ArmError::Unknown(name.to_owned()));
    }
    let armed = Armed { name: name.to_owned(), in_request, passes_left: AtomicU64::new(passes), by };
    ARMED.set(armed).map_err(|_| ArmError::AlreadyArmed)
}

/// Passes the point `name`, which ends the process if it is armed and this is the armed pass.
#[inline]
pub fn point(name: &str) {
    if let Some(armed) = ARMED.get() {
        pass(armed, name);
    }
}

#[cold]
fn pass(armed: &Armed, name: &str) {
    let counts = armed.name == name && (!armed.in_request || REQUEST.get());
    if !counts || armed.passes_left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    match armed.by {
        Ending::Panic => panic!("crash point {name}"),
        Ending::Exit => std::process::exit(0),
        Ending::Hang => loop {
            std::thread::park();
        },
        Ending::Spin => loop {
            std::hint::spin_loop();
        },
        Ending::Kill => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        Ending::Abort => std::process::abort(),
    }
}
