//! The `selvedge` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = selvedge_cli::app::become_command() {
        return code;
    }
    selvedge_cli::hygiene::clean_cli();
    selvedge_cli::app::main()
}
