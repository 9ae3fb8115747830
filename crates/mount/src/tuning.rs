//! What of a mount can be set: how the kernel and the worker share the work, and how files are shown.
//!
//! A supervisor passes it to the worker as options behind the others, one for each value that is not the default, so
//! that `ps` shows what is special about a mount. Every worker of a mount gets the same: a successor has to come to the
//! same agreement with the kernel as its predecessor.

use std::ffi::{OsStr, OsString};
use std::str::FromStr;
use std::time::Duration;

use selvedge_store::backend::DEFAULT_LARGE_BLOB;
use serde::{Deserialize, Serialize};

use crate::resident::MAX_WRITE;

/// The most dispatch threads: more would only wait for each other.
pub const MAX_THREADS: u64 = 64;

/// The least and the most bytes of one write request: a page, and the kernel's own limit.
pub const WRITE_SIZES: (u64, u64) = (4096, MAX_WRITE as u64);

/// How long the kernel may answer from what it knows, unless it is set. One mount serves a thread and every change
/// comes through it, so what the kernel has cached never becomes wrong behind its back.
const TTL_MS: u64 = 24 * 60 * 60 * 1000;

/// Whether the kernel is to read and write files itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passing {
    /// Where it can.
    #[default]
    Auto,
    /// Without it there is no mount.
    On,
    /// Never.
    Off,
}

impl Passing {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];

    /// Its name in settings and options.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// What a mount is to be fast at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Reading and writing: the worker hears of each file that is opened, and may have the kernel read and write it itself.
    #[default]
    Throughput,
    /// Many small files, read again and again: the kernel opens files without asking, so that one whose content it has costs
    /// no request at all.
    SmallFiles,
}

impl Profile {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Throughput, Self::SmallFiles];

    /// Its name in settings and options.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::SmallFiles => "small-files",
        }
    }
}

/// What can be set of a mount. Whatever a record does not say is as in [`Tuning::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tuning {
    /// Dispatch threads, at most [`MAX_THREADS`].
    pub threads: u64,
    /// How long the kernel may remember what a name stands for, in milliseconds.
    pub entry_ttl_ms: u64,
    /// How long it may remember a file's attributes, in milliseconds.
    pub attr_ttl_ms: u64,
    /// How long it may remember that there is no such name, in milliseconds.
    pub negative_ttl_ms: u64,
    /// What it is to be fast at.
    pub profile: Profile,
    /// Whether it reads and writes files itself, where it can.
    pub passthrough: Passing,
    /// Whether it holds back what programs write, and sends it when it sees fit or is asked to.
    pub writeback: bool,
    /// Whether it keeps no content of files in its page cache.
    pub direct_io: bool,
    /// Bytes of one write request at most, within [`WRITE_SIZES`].
    pub max_write: u64,
    /// Requests that it may have in flight of which no program waits, reading ahead among them.
    pub max_background: u16,
    /// The user to whom every file is shown to belong; each to its own without.
    pub uid: Option<u32>,
    /// The group to which every file is shown to belong; each to its own without.
    pub gid: Option<u32>,
    /// Whether each write request is logged, without its content.
    pub trace_writes: bool,
    /// The size from which on content that a snapshot stores is a plain file, in bytes.
    pub large_blob: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            threads: 4,
            entry_ttl_ms: TTL_MS,
            attr_ttl_ms: TTL_MS,
            negative_ttl_ms: TTL_MS,
            profile: Profile::Throughput,
            passthrough: Passing::Auto,
            writeback: false,
            direct_io: false,
            max_write: WRITE_SIZES.1,
            max_background: 16,
            uid: None,
            gid: None,
            trace_writes: false,
            large_blob: DEFAULT_LARGE_BLOB,
        }
    }
}

/// A value that an option cannot have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} cannot be {value:?}")]
pub struct BadTuning {
    /// The option.
    pub option: &'static str,
    /// What stands behind it.
    pub value: OsString,
}

/// Two settings that exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// Held back writes, and passthrough if it has to be.
    #[error("the kernel passes no files through on a mount where it holds writes back (writeback)")]
    Passthrough,
    /// Held back writes, and files past the page cache.
    #[error("writes that all go to the worker at once (direct_io) cannot be held back (writeback)")]
    DirectIo,
    /// Files that are opened without asking, and what is agreed when a file is opened; named here.
    #[error("there is no {0} where files are opened without asking (profile small-files)")]
    Unasked(&'static str),
}

impl Clash {
    /// The setting that excludes others.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Passthrough | Self::DirectIo => "mount.writeback",
            Self::Unasked(_) => "mount.profile",
        }
    }

    /// What to do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Passthrough => "set mount.passthrough to auto or off, or mount.writeback to false",
            Self::DirectIo => "set one of mount.direct_io and mount.writeback to false",
            Self::Unasked(_) => "set mount.profile to throughput, or do without the other setting",
        }
    }
}

impl Tuning {
    /// Refuses what the kernel could not do on one mount.
    ///
    /// # Errors
    /// The two settings that exclude each other.
    pub const fn check(&self) -> Result<(), Clash> {
        if matches!(self.profile, Profile::SmallFiles) {
            match (self.passthrough, self.writeback, self.direct_io) {
                (Passing::On, ..) => return Err(Clash::Unasked("passthrough")),
                (_, true, _) => return Err(Clash::Unasked("writeback")),
                (.., true) => return Err(Clash::Unasked("direct_io")),
                _ => {}
            }
        }
        match (self.writeback, self.direct_io, self.passthrough) {
            (true, true, _) => Err(Clash::DirectIo),
            (true, _, Passing::On) => Err(Clash::Passthrough),
            _ => Ok(()),
        }
    }

    /// The worker's options that say so.
    pub fn arguments(&self) -> Vec<OsString> {
        let usual = Self::default();
        let mut words = Vec::new();
        let mut number = |option: &str, value: Option<u64>, usual: Option<u64>| {
            if let Some(value) = value.filter(|value| Some(*value) != usual) {
                words.extend([option.into(), value.to_string().into()]);
            }
        };
        number("--threads", Some(self.threads), Some(usual.threads));
        number("--entry-ttl-ms", Some(self.entry_ttl_ms), Some(usual.entry_ttl_ms));
        number("--attr-ttl-ms", Some(self.attr_ttl_ms), Some(usual.attr_ttl_ms));
        number("--negative-ttl-ms", Some(self.negative_ttl_ms), Some(usual.negative_ttl_ms));
        number("--max-write", Some(self.max_write), Some(usual.max_write));
        number("--max-background", Some(self.max_background.into()), Some(usual.max_background.into()));
        number("--uid", self.uid.map(u64::from), None);
        number("--gid", self.gid.map(u64::from), None);
        number("--large-blob", Some(self.large_blob), Some(usual.large_blob));
        if self.profile != usual.profile {
            words.extend(["--profile".into(), self.profile.as_str().into()]);
        }
        if self.passthrough != usual.passthrough {
            words.extend(["--passthrough".into(), self.passthrough.as_str().into()]);
        }
        let switches = [
            ("--writeback", self.writeback),
            ("--direct-io", self.direct_io),
            ("--trace-writes", self.trace_writes),
        ];
        words.extend(switches.into_iter().filter(|(_, on)| *on).map(|(word, _)| word.into()));
        words
    }

    /// Takes note of `option`, whose value is to be asked for if it has one. `false` if it is another's.
    pub(crate) fn take(
        &mut self,
        option: &OsStr,
        value: &mut dyn FnMut(&'static str) -> Option<OsString>,
    ) -> Result<bool, BadTuning> {
        match option.to_str() {
            Some("--threads") => self.threads = number("--threads", value, 1..=MAX_THREADS)?,
            Some("--entry-ttl-ms") => self.entry_ttl_ms = number("--entry-ttl-ms", value, 0..=u64::MAX)?,
            Some("--attr-ttl-ms") => self.attr_ttl_ms = number("--attr-ttl-ms", value, 0..=u64::MAX)?,
            Some("--negative-ttl-ms") => {
                self.negative_ttl_ms = number("--negative-ttl-ms", value, 0..=u64::MAX)?;
            }
            Some("--max-write") => {
                self.max_write = number("--max-write", value, WRITE_SIZES.0..=WRITE_SIZES.1)?;
            }
            Some("--max-background") => {
                self.max_background = number("--max-background", value, 1..=u16::MAX)?;
            }
            Some("--uid") => self.uid = Some(number("--uid", value, 0..=u32::MAX - 1)?),
            Some("--gid") => self.gid = Some(number("--gid", value, 0..=u32::MAX - 1)?),
            Some("--large-blob") => self.large_blob = number("--large-blob", value, 1..=u64::MAX)?,
            Some("--profile") => {
                self.profile = choice("--profile", value, Profile::ALL.map(|it| (it.as_str(), it)))?;
            }
            Some("--passthrough") => {
                self.passthrough = choice("--passthrough", value, Passing::ALL.map(|it| (it.as_str(), it)))?;
            }
            Some("--writeback") => self.writeback = true,
            Some("--direct-io") => self.direct_io = true,
            Some("--trace-writes") => self.trace_writes = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// How many requests of which no program waits the kernel may have in flight.
    pub(crate) const fn background(&self) -> u16 {
        match self.profile {
            Profile::Throughput => self.max_background,
            // None may wait its turn: what is asked after a sync is to come after all that was synced.
            Profile::SmallFiles => u16::MAX,
        }
    }

    pub(crate) const fn entry_ttl(&self) -> Duration {
        Duration::from_millis(self.entry_ttl_ms)
    }

    pub(crate) const fn attr_ttl(&self) -> Duration {
        Duration::from_millis(self.attr_ttl_ms)
    }

    pub(crate) const fn negative_ttl(&self) -> Duration {
        Duration::from_millis(self.negative_ttl_ms)
    }
}

fn choice<T, const N: usize>(
    option: &'static str,
    value: &mut dyn FnMut(&'static str) -> Option<OsString>,
    choices: [(&'static str, T); N],
) -> Result<T, BadTuning> {
    let value = value(option).unwrap_or_default();
    let found = choices.into_iter().find(|(name, _)| *name == value);
    found.map(|(_, choice)| choice).ok_or(BadTuning { option, value })
}

fn number<T: FromStr + PartialOrd>(
    option: &'static str,
    value: &mut dyn FnMut(&'static str) -> Option<OsString>,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, BadTuning> {
    let value = value(option).unwrap_or_default();
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.filter(|number| range.contains(number)).ok_or(BadTuning { option, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[OsString]) -> Result<Tuning, BadTuning> {
        let mut tuning = Tuning::default();
        let mut words = words.iter().cloned();
        while let Some(option) = words.next() {
            assert!(tuning.take(&option, &mut |_| words.next())?, "{option:?}");
        }
        Ok(tuning)
    }

    #[test]
    fn what_is_set_comes_back_from_the_command_line() {
        assert!(Tuning::default().arguments().is_empty());
        let tuning = Tuning {
            threads: 2,
            entry_ttl_ms: 0,
            attr_ttl_ms: 1,
            negative_ttl_ms: 2,
            profile: Profile::SmallFiles,
            passthrough: Passing::On,
            writeback: true,
            direct_io: true,
            max_write: 8192,
            max_background: 3,
            uid: Some(0),
            gid: Some(7),
            trace_writes: true,
            large_blob: 1,
        };
        assert_eq!(read(&tuning.arguments()).unwrap(), tuning);
        assert_eq!(read(&Tuning::default().arguments()).unwrap(), Tuning::default());
    }

    #[test]
    fn what_no_mount_can_have_at_once_is_refused() {
        let held_back = Tuning { writeback: true, ..Tuning::default() };
        assert_eq!(held_back.check(), Ok(()));
        assert_eq!(Tuning { passthrough: Passing::Auto, ..held_back }.check(), Ok(()));
        assert_eq!(Tuning { passthrough: Passing::On, ..held_back }.check(), Err(Clash::Passthrough));
        assert_eq!(Tuning { direct_io: true, ..held_back }.check(), Err(Clash::DirectIo));
        assert_eq!(Tuning { direct_io: true, writeback: false, ..held_back }.check(), Ok(()));
        let unasked = Tuning { profile: Profile::SmallFiles, ..Tuning::default() };
        assert_eq!(unasked.check(), Ok(()));
        assert_eq!(Tuning { trace_writes: true, ..unasked }.check(), Ok(()));
        for (tuning, what) in [
            (Tuning { passthrough: Passing::On, ..unasked }, "passthrough"),
            (Tuning { writeback: true, ..unasked }, "writeback"),
            (Tuning { direct_io: true, ..unasked }, "direct_io"),
        ] {
            assert_eq!(tuning.check(), Err(Clash::Unasked(what)));
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (option, value) in [
            ("--threads", "0"),
            ("--max-write", "4095"),
            ("--max-background", "65536"),
            ("--uid", "4294967295"),
            ("--passthrough", "never"),
            ("--profile", "fast"),
        ] {
            let error = read(&[option.into(), value.into()]).unwrap_err();
            assert_eq!((error.option, error.value), (option, value.into()));
        }
        assert_eq!(read(&["--threads".into()]).unwrap_err().value, "");
    }
}
