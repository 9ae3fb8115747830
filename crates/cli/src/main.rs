//! The `selvedge` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    selvedge_cli::hygiene::clean_cli();
    selvedge_cli::app::main()
}
