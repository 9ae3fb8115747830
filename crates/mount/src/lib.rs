//! The worker of Selvedge: one process, one kernel mount, one [view](selvedge_view::View).
//!
//! | module | what it is |
//! |---|---|
//! | [`Adapter`] | FUSE requests to view operations and back: calls, replies, logs; no logic |
//! | [`errno_of`] | the one table from errors to error numbers |
//! | [`session`] | joins a FUSE connection, new or inherited, and runs its dispatch threads |
//! | [`SessionState`] | what a successor has to know that is in no layer: the connection, and what is open on it |
//! | `backings` | files that the kernel reads and writes itself |
//! | [`Tuning`] | what of a mount can be set |
//! | [`ResidentBuffers`] | the allocator that keeps request buffers in memory |
//! | [`worker`] | the process: arguments, checks, the mount, commands, the end |

mod adapter;
mod arguments;
mod attr;
mod backings;
mod caller;
mod errno;
mod formats;
mod load;
mod op;
mod page_cache;
mod poison;
mod reply;
mod resident;
pub mod session;
mod session_state;
mod stacks;
#[expect(
    unsafe_code,
    reason = "descriptor numbers that fuser owns, and the allocator interface; argued there"
)]
mod sys;
mod tuning;
pub mod worker;

pub use adapter::Adapter;
pub use errno::errno_of;
pub use formats::formats;
pub use load::Load;
pub use op::POINTS;
pub use poison::Poison;
pub use resident::ResidentBuffers;
pub use session_state::{Backing, Header, Resumed, SessionState, SessionStateError};
pub use tuning::{BadTuning, Clash, MAX_THREADS, Passing, Profile, Tuning, WRITE_SIZES};
