//! The worker process: owns one kernel mount and serves one thread's view through it.

use std::process::ExitCode;

use selvedge_mount::ResidentBuffers;

/// Set here and not in the library: which allocator a process has is its program's to say.
#[global_allocator]
static ALLOCATOR: ResidentBuffers = ResidentBuffers;

fn main() -> ExitCode {
    if let Err(error) = selvedge_cli::hygiene::clean_worker() {
        eprintln!("selvedge-fuse-worker: cannot set up the process: {error}");
        return ExitCode::FAILURE;
    }
    selvedge_mount::worker::main(selvedge_cli::adoption::adopter)
}
