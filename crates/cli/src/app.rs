//! From the command line's words to an exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapKind;

use crate::args::{Cli, Command};
use crate::commands::{
    bind, completions, config, diff, doctor, export, fsck, gc, import, init, list, log, mount, run, service,
    snapshot, status, thread, unmount,
};
use crate::context::Context;
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::logging;
use crate::ui::Ui;

/// Becomes the command of `selvedge run`, if that is what the process was started for: as the caller has left this
/// process, because it is the command's to inherit. Nothing is changed otherwise.
pub fn become_command() -> Option<ExitCode> {
    match Cli::try_parse().ok()? {
        Cli { global, command: Command::Run(args) } if args.is_front() => Some(run::front(&global, &args)),
        _ => None,
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &words),
    };
    let ui = Ui { json: cli.global.json, quiet: cli.global.quiet };
    match carry_out(cli, ui) {
        Ok(code) => code,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn carry_out(cli: Cli, ui: Ui) -> Result<ExitCode> {
    let environment = Environment::read();
    // The service's log is a file of its own.
    let log = match cli.command {
        Command::Service(service::ServiceCommand::Run) => None,
        _ => Some(logging::start(&environment, cli.global.verbose)?),
    };
    let context = Context::new(ui, environment, cli.global.repo, log)?;
    let done = match cli.command {
        // Their exit codes may answer a question.
        Command::Status(args) => return status::run(&context, &args),
        Command::Diff(args) => return diff::run(&context, &args),
        Command::Init(args) => init::run(&context, args),
        Command::Import(args) => import::run(&context, &args),
        Command::Export(args) => export::run(&context, &args),
        Command::Log(args) => log::run(&context, &args),
        Command::Snapshot(args) => snapshot::run(&context, &args),
        Command::Thread(command) => thread::run(&context, command),
        Command::Mount(args) => mount::run(&context, &args),
        Command::Run(args) => run::prepare(&context, &args),
        Command::Bind(args) => bind::run(&context, &args),
        Command::Unmount(args) => unmount::run(&context, &args),
        Command::List(args) => list::run(&context, args),
        Command::Service(command) => service::run(&context, command),
        Command::Doctor(args) => doctor::run(&context, &args),
        Command::Gc(args) => gc::run(&context, args),
        Command::Fsck(args) => fsck::run(&context, args),
        Command::Config(args) => config::run(&context, &args),
        Command::Completions(args) => completions::run(&context, &args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Help and version are results; everything else that the parser says is a usage error, in JSON if that was
/// asked for.
fn usage(error: &clap::Error, words: &[OsString]) -> ExitCode {
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let ui = Ui { json, quiet: false };
    let text = error.render().to_string();
    match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => match ui.raw(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                ui.error(&error);
                ExitCode::from(error.exit_code())
            }
        },
        _ => {
            let error = from_parser(error.kind(), &text);
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// The parser's text is an error line, then perhaps tips, the usage and a pointer to `--help`.
fn from_parser(kind: ClapKind, text: &str) -> CliError {
    if kind == ClapKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let usage =
            text.lines().find(|line| line.starts_with("Usage: ")).unwrap_or("Usage: selvedge COMMAND");
        return CliError::usage("a command is missing").hint(format!("{usage}; --help lists the commands"));
    }
    let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let message = message.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    let hint: Vec<&str> =
        rest.split('\n')
            .map(|line| line.trim().trim_start_matches("tip: "))
            .filter(|line| !line.is_empty())
            .map(|line| {
                if line.starts_with("For more information") { "more: selvedge COMMAND --help" } else { line }
            })
            .collect();
    let hint = if hint.is_empty() { "more: selvedge COMMAND --help".to_owned() } else { hint.join("; ") };
    CliError::usage(message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for words in [["selvedge", "--json", "list"], ["selvedge", "list", "--json"]] {
            assert!(Cli::try_parse_from(words).unwrap().global.json);
        }
    }

    #[test]
    fn usage_errors_are_one_message_and_a_hint() {
        let error = Cli::try_parse_from(["selvedge", "thread", "create"]).unwrap_err();
        let error = from_parser(error.kind(), &error.render().to_string());
        assert_eq!(error.message, "the following required arguments were not provided: <NAME>");
        assert!(error.hint.starts_with("Usage: selvedge thread create"));
    }
}
