//! Becoming another program, with everything that is mounted: `service upgrade`.
//!
//! The service executes the new program in its own place. Process, children, locks, the listening socket and what
//! supervisors keep for successors stay; what the new program has to know lies in a memory file ([`handover`]). It goes
//! on with the workers that live, and then replaces each by one of its own installation.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use std::os::fd::AsRawFd as _;

use super::crash;
use super::handover::{self, Leaving};
use super::home::Home;
use super::host::Service;
use super::signals::Signals;
use crate::control::Answer;
use crate::error::{CliError, Result};
use crate::formats::Formats;

/// How long commands that are being answered, and mounts that are being made, are waited for.
const CALM: Duration = Duration::from_secs(30);

/// How long new commands wait at the door until those inside have gone.
const DOOR: Duration = Duration::from_secs(1);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Somebody wants the service to be another program.
#[derive(Debug)]
pub(super) struct UpgradeAsked {
    pub(super) program: OwnedFd,
    /// Where the new program tells how it went.
    pub(super) answer: Answer,
    /// Why nothing came of it.
    pub(super) failed: Sender<CliError>,
}

/// Refuses a program that could not go on from what this one leaves. It is run for that, so it runs at all.
pub(super) fn check_program(program: &OwnedFd) -> Result<()> {
    let theirs = Formats::of_service(Command::new(format!("/proc/self/fd/{}", program.as_raw_fd())))?;
    refuse_misfits("the new program", &Formats::own().misfits(&theirs, false))
}

/// As [`check_program`], for a worker that a mount was made with.
pub(super) fn check_worker(program: &std::path::Path) -> Result<()> {
    let theirs = Formats::of_worker(Command::new(program))?;
    refuse_misfits(&crate::ui::show(program), &Formats::own().misfits(&theirs, true))
}

fn refuse_misfits(whose: &str, misfits: &[String]) -> Result<()> {
    if misfits.is_empty() {
        return Ok(());
    }
    Err(CliError::failed(format!(
        "{whose} cannot go on from what the running service leaves: {}",
        misfits.join(", ")
    ))
    .hint(
        "nothing has been changed; unmount all (selvedge service stop) and mount again with the new version",
    ))
}

/// Becomes the program. Comes back with the reason why not, and then everything goes on as before.
pub(super) fn upgrade(
    service: &Arc<Service>,
    home: &mut Home,
    signals: &Signals,
    asked: &UpgradeAsked,
) -> CliError {
    let until = Instant::now() + CALM;
    loop {
        if let Err(error) = wait_calm(service, home, until) {
            return error;
        }
        home.pause();
        let outcome = wait_calm(service, home, until.min(Instant::now() + DOOR))
            .and_then(|()| service.hold_all())
            .map(|mounts| {
                // Those that come from here on are the new program's.
                let left = signals.leave();
                let Some((lock, listener)) = home.parts().filter(|_| left.is_some()) else {
                    return CliError::failed("the service is ending").hint("start it anew");
                };
                let in_background = home.log.is_some();
                let leaving =
                    Leaving { in_background, lock, listener, asker: asked.answer.parts(), mounts: &mounts };
                tracing::info!("becoming another program, with {} mounts", mounts.len());
                crash::point("upgrade.held");
                handover::become_program(&asked.program, &leaving)
            });
        home.go_on();
        match outcome {
            // It was tried, and could not be done.
            Ok(error) => return error,
            Err(error) if Instant::now() >= until => return error,
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Waits until nobody but the asker is connected, and nothing is being mounted or unmounted.
fn wait_calm(service: &Service, home: &Home, until: Instant) -> Result<()> {
    while home.clients() > 1 || !service.is_calm() {
        if Instant::now() >= until {
            return Err(CliError::conflict(
                "the service is at work on other commands, or a mount is being made or ended",
            )
            .hint("try again when that is done (selvedge list)"));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
