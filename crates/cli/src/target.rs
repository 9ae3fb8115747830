//! What a word on the command line names: a thread or a snapshot.

use selvedge_store::{ObjectId, RefsError, Repository, ThreadName, ThreadRef};

use crate::error::{CliError, Result};

/// A thread or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A thread, as it was when it was looked up.
    Thread(ThreadRef),
    /// A snapshot.
    Snapshot(ObjectId),
}

impl Target {
    /// The snapshot, or the one beneath the thread's layers.
    pub const fn snapshot(&self) -> ObjectId {
        match self {
            Self::Thread(thread) => thread.snapshot,
            Self::Snapshot(id) => *id,
        }
    }

    /// Finds what `word` names. A thread goes first: its name was chosen by somebody, an id by nobody.
    pub fn find(repository: &Repository, word: &str) -> Result<Self> {
        let name: Option<ThreadName> = word.parse().ok();
        if let Some(name) = &name {
            match repository.refs().thread(name) {
                Ok(thread) => return Ok(Self::Thread(thread)),
                Err(RefsError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let digits = (8..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits {
            return Ok(Self::Snapshot(repository.store().resolve_snapshot(&word.to_ascii_lowercase())?));
        }
        match name {
            Some(name) => {
                let missing = CliError::not_found(format!("there is no thread named {name}"));
                Err(if name.as_str() == "main" {
                    missing.hint("the first selvedge import makes it")
                } else {
                    missing.hint("selvedge thread list shows what there is")
                })
            }
            None => Err(CliError::usage(format!("{word:?} names neither a thread nor a snapshot"))
                .hint("snapshot ids are hexadecimal digits, of which 8 suffice when they are unique")),
        }
    }
}

/// Whether a thread has changes since its snapshot: layers exist from the first change on.
pub fn is_dirty(thread: &ThreadRef) -> bool {
    thread.upper.is_some() || !thread.layers.is_empty()
}
