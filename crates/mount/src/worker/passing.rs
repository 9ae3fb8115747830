//! Whether files are passed through: what was wished for, and what came of it.

use rustix::thread::CapabilitySet;
use selvedge_backing::{Helper, Installed, Registrar};
use selvedge_view::View;
use selvedge_worker_proto::ErrorKind;

use super::refusal::Refusal;
use crate::backings::Backings;
use crate::session::InitExchange;
use crate::tuning::{Passing, Profile, Tuning};

/// Why there is none where nothing else is in its way.
const NOT_IN_THE_KERNEL: &str = "the kernel (before Linux 6.9) has none";

/// What is wished for, and why it cannot be if that is known beforehand.
#[derive(Debug)]
pub(super) struct Wish {
    passing: Passing,
    helper: Option<Installed>,
    obstacle: Option<String>,
}

impl Wish {
    /// What `tuning` says, of a mount that takes changes or not.
    pub(super) fn of(tuning: &Tuning, read_only: bool) -> Self {
        let passing = tuning.passthrough;
        let helper = (!is_privileged()).then(helper);
        let obstacle = if passing == Passing::Off {
            Some("it is switched off".to_owned())
        } else if tuning.profile == Profile::SmallFiles {
            Some("files are opened without asking (profile small-files)".to_owned())
        } else if tuning.writeback {
            Some("the kernel holds back what is written (writeback)".to_owned())
        } else if tuning.direct_io {
            Some("every read and write is to go to the worker (direct_io)".to_owned())
        } else if tuning.trace_writes {
            Some("writes are to be logged (trace_writes)".to_owned())
        } else {
            helper.as_ref().and_then(|helper| without_privilege(helper, read_only))
        };
        Self { passing, helper, obstacle }
    }

    /// Why there is none, where the connection was set up without it.
    fn reason(&self) -> &str {
        self.obstacle.as_deref().unwrap_or(NOT_IN_THE_KERNEL)
    }

    /// How deep file systems may be stacked below the mount, if files are to be passed through. Each step is one less for
    /// whoever stacks a file system upon it.
    pub(super) fn depth(&self, view: &View) -> Option<u32> {
        self.obstacle.is_none().then(|| if view.is_on_overlay() { 2 } else { 1 })
    }

    /// Passes files through from now on where that was agreed and can be done, and refuses the mount if it has to be.
    pub(super) fn begin(&self, backings: &Backings, view: &View, init: &InitExchange) -> Result<(), Refusal> {
        self.go_on(backings, view, init);
        match backings.reason() {
            Some(why) if self.passing == Passing::On => Err(Refusal::new(
                ErrorKind::Failed,
                format!("files cannot be passed through: {why}"),
                "set mount.passthrough to auto, to do without where it cannot be",
            )),
            _ => Ok(()),
        }
    }

    /// Passes files through, as far as the connection was set up for it.
    pub(super) fn go_on(&self, backings: &Backings, view: &View, init: &InitExchange) {
        match init.stack_depth() {
            None => backings.refrain(self.reason()),
            Some(_) => backings.begin(view, self.registrar()),
        }
    }

    fn registrar(&self) -> Registrar {
        match &self.helper {
            Some(Installed::Capable(program)) => Registrar::Helper(Helper::new(program.clone())),
            _ => Registrar::Kernel,
        }
    }
}

/// Why there is none for a worker without the capability.
fn without_privilege(helper: &Installed, read_only: bool) -> Option<String> {
    let lacking = "it needs the capability CAP_SYS_ADMIN, and";
    if let Some(why) = helper.obstacle() {
        Some(format!("{lacking} {why}"))
    } else if rustix::thread::no_new_privs().unwrap_or(false) {
        Some(format!("{lacking} no_new_privs keeps the helper from having it"))
    } else if read_only {
        // Whoever opens a registered file could write it.
        Some(format!("{lacking} the helper passes nothing through that is not open for writing"))
    } else {
        None
    }
}

/// The helper beside this program, whose name the kernel knows even if another file has it now.
fn helper() -> Installed {
    Installed::beside(&std::env::current_exe().unwrap_or_default())
}

fn is_privileged() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}
