//! Where the worker's program is.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::context::{absolute, lexical_file_system};
use crate::environment::{Environment, is_executable};
use crate::error::{CliError, Result};
use crate::runtime::file_system_type;
use crate::ui::show;

/// The program's name.
pub const NAME: &str = "selvedge-fuse-worker";

/// Finds the worker: `SELVEDGE_FUSE_WORKER_BIN`, else beside this program, else in `PATH`.
pub fn find(environment: &Environment) -> Result<PathBuf> {
    let program = match &environment.worker_bin {
        Some(chosen) => absolute(chosen)?,
        None => beside_this_program().or_else(|| environment.find_program(NAME)).ok_or_else(|| {
            CliError::failed(format!("cannot find {NAME}, neither beside this program nor in PATH"))
                .hint("install it with selvedge, or name it in SELVEDGE_FUSE_WORKER_BIN")
        })?,
    };
    refuse_selvedge_mount(&program)?;
    Ok(program)
}

fn beside_this_program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name(NAME);
    is_executable(&beside).then_some(beside)
}

/// A worker whose own program comes through a mount waits for that mount's worker, in the end for itself.
fn refuse_selvedge_mount(program: &Path) -> Result<()> {
    let refused = || {
        CliError::conflict(format!("the worker program {} lies on a Selvedge mount", show(program)))
            .hint("install it elsewhere, or name another in SELVEDGE_FUSE_WORKER_BIN")
    };
    // First by name alone, because opening it there may already wait; then as the kernel resolves it.
    if lexical_file_system(program).is_some_and(|kind| kind == selvedge_mountpoint::FS_TYPE) {
        return Err(refused());
    }
    let opened = rustix::fs::open(program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    match opened {
        Ok(fd) if file_system_type(fd.as_fd()).is_some_and(|kind| kind == selvedge_mountpoint::FS_TYPE) => {
            Err(refused())
        }
        // A missing program is the supervisor's to report: it says so in the same words for every caller.
        _ => Ok(()),
    }
}
