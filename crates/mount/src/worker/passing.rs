//! Whether files are passed through: what was wished for, and what came of it.

use rustix::thread::CapabilitySet;
use selvedge_view::View;
use selvedge_worker_proto::ErrorKind;

use super::refusal::Refusal;
use crate::backings::Backings;
use crate::session::InitExchange;
use crate::tuning::{Passing, Tuning};

/// Why there is none where nothing else is in its way.
const NOT_IN_THE_KERNEL: &str = "the kernel (before Linux 6.9) has none";

/// What is wished for, and why it cannot be if that is known beforehand.
#[derive(Debug)]
pub(super) struct Wish {
    passing: Passing,
    obstacle: Option<&'static str>,
}

impl Wish {
    /// What `tuning` says.
    pub(super) fn of(tuning: &Tuning) -> Self {
        let passing = tuning.passthrough;
        let obstacle = if passing == Passing::Off {
            Some("it is switched off")
        } else if tuning.writeback {
            Some("the kernel holds back what is written (writeback)")
        } else if tuning.direct_io {
            Some("every read and write is to go to the worker (direct_io)")
        } else if tuning.trace_writes {
            Some("writes are to be logged (trace_writes)")
        } else if !is_privileged() {
            Some("it needs the capability CAP_SYS_ADMIN")
        } else {
            None
        };
        Self { passing, obstacle }
    }

    /// Why there is none, where the connection was set up without it.
    pub(super) fn reason(&self) -> &'static str {
        self.obstacle.unwrap_or(NOT_IN_THE_KERNEL)
    }

    /// How deep file systems may be stacked below the mount, if files are to be passed through. Each step is one less for
    /// whoever stacks a file system upon it.
    pub(super) fn depth(&self, view: &View) -> Option<u32> {
        self.obstacle.is_none().then(|| if view.is_on_overlay() { 2 } else { 1 })
    }

    /// Passes files through from now on where that was agreed and can be done, and refuses the mount if it has to be.
    pub(super) fn begin(&self, backings: &Backings, view: &View, init: &InitExchange) -> Result<(), Refusal> {
        match init.stack_depth() {
            None => backings.refrain(self.reason()),
            Some(_) => backings.begin(view),
        }
        match backings.reason() {
            Some(why) if self.passing == Passing::On => Err(Refusal::new(
                ErrorKind::Failed,
                format!("files cannot be passed through: {why}"),
                "set mount.passthrough to auto, to do without where it cannot be",
            )),
            _ => Ok(()),
        }
    }
}

fn is_privileged() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}
