//! The versions of everything that a program leaves for another one: what has to be equal for one to go on where the
//! other stops.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{CliError, Result};
use crate::service::HANDOVER_VERSION;
use crate::{record, wanted};

/// How long a program may take to say which formats it knows.
const ANSWER: Duration = Duration::from_secs(5);

/// The longest answer read, in bytes.
const MOST: u64 = 16 * 1024;

/// Formats by name, each with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Formats(BTreeMap<String, u32>);

impl Formats {
    /// Those of this very program and of the worker that is built with it.
    pub fn own() -> Self {
        Self::of_command().with(Self::of(&selvedge_mount::formats()))
    }

    /// Those of this very program, without its worker's.
    pub fn of_command() -> Self {
        Self::of(&[("handover", HANDOVER_VERSION), ("record", record::VERSION), ("wanted", wanted::VERSION)])
    }

    fn of(formats: &[(&str, u32)]) -> Self {
        Self(formats.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect())
    }

    /// Those of the worker `program` names, which is asked for them.
    pub fn of_worker(program: Command) -> Result<Self> {
        ask(program, &["--formats"])
    }

    /// Those of the program `selvedge` that `program` names, and of the worker that it would start.
    pub fn of_service(program: Command) -> Result<Self> {
        ask(program, &["service", "formats"])
    }

    /// These and those of `other`.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// In what `other` is different, for people; only what a worker knows if `of_worker`.
    pub fn misfits(&self, other: &Self, of_worker: bool) -> Vec<String> {
        let is_asked =
            |name: &str| !of_worker || selvedge_mount::formats().iter().any(|(known, _)| *known == name);
        let mut misfits = Vec::new();
        for (name, version) in self.0.iter().filter(|(name, _)| is_asked(name)) {
            match other.0.get(name) {
                Some(theirs) if theirs == version => {}
                Some(theirs) => misfits.push(format!("{name} is {version} here and {theirs} there")),
                None => misfits.push(format!("{name} is not known there")),
            }
        }
        let unknown = other.0.keys().filter(|name| !self.0.contains_key(*name));
        misfits.extend(unknown.map(|name| format!("{name} is not known here")));
        misfits
    }

    /// One line each.
    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|(name, version)| format!("{name} {version}\n"));
        lines.collect::<Vec<_>>().concat()
    }

    fn parse(text: &str) -> Option<Self> {
        let line = |line: &str| {
            let (name, version) = line.split_once(' ')?;
            Some((name.to_owned(), version.parse().ok()?))
        };
        let formats: Option<BTreeMap<String, u32>> = text.lines().map(line).collect();
        formats.filter(|formats| !formats.is_empty()).map(Self)
    }
}

/// Runs `program` with `words`, and reads what it knows.
fn ask(mut program: Command, words: &[&str]) -> Result<Formats> {
    let name = program.get_program().to_string_lossy().into_owned();
    let tried = || format!("cannot ask {name} which formats it knows");
    program.args(words).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = program.spawn().map_err(|error| {
        CliError::io(tried(), &error).hint("install selvedge and selvedge-fuse-worker for this machine")
    })?;
    let stdout = child.stdout.take();
    let (said, heard) = mpsc::channel();
    let read = move || {
        let mut text = String::new();
        let whole = stdout.is_some_and(|stdout| stdout.take(MOST).read_to_string(&mut text).is_ok());
        // Nobody listens when it took too long.
        let _ = said.send(text).is_ok() && whole;
    };
    let reading = std::thread::Builder::new().name("formats".to_owned()).spawn(read);
    let text = reading.ok().and_then(|_| heard.recv_timeout(ANSWER).ok());
    // It has said all it is asked for; one that goes on is of no use.
    let ended = if text.is_some() { child.try_wait().ok().flatten() } else { None };
    if ended.is_none() {
        let _ = child.kill();
    }
    let _ = child.wait();
    text.and_then(|text| Formats::parse(&text)).ok_or_else(|| {
        CliError::failed(format!("{}: it gives no answer that makes sense", tried()))
            .hint("it may be too old to be upgraded to: stop the service, and mount again with it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_again() {
        let own = Formats::own();
        assert_eq!(Formats::parse(&own.text()), Some(own));
        assert_eq!(Formats::parse(""), None);
        assert_eq!(Formats::parse("usage: x\n"), None);
    }

    #[test]
    fn every_difference_is_named() {
        let here = Formats::of(&[("catalog", 1), ("handover", 1), ("record", 1)]);
        assert_eq!(here.misfits(&here, false), Vec::<String>::new());
        let there = Formats::of(&[("catalog", 2), ("record", 1), ("seal", 1)]);
        let misfits = here.misfits(&there, false);
        assert_eq!(
            misfits,
            ["catalog is 1 here and 2 there", "handover is not known there", "seal is not known here"]
        );
        assert_eq!(here.misfits(&there, true).len(), 2, "a worker knows of no handover");
    }

    #[test]
    fn a_program_that_gives_no_answer_is_named() {
        for program in ["true", "/nowhere/selvedge"] {
            let error = ask(Command::new(program), &[]).unwrap_err();
            assert!(error.message.contains(program), "{error}");
        }
    }
}
