//! The helper process: has the kernel know files for workers that may not tell it themselves.

use std::process::ExitCode;

fn main() -> ExitCode {
    selvedge_backing::helper::main()
}
