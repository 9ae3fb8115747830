//! The worker's command line. It is written by a supervisor and seen in `ps`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::tuning::{BadTuning, Tuning};

/// What to mount where, and how.
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is given or not")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    /// The directory that holds `.selvedge`.
    pub(crate) repo: PathBuf,
    /// The thread's name, unchecked.
    pub(crate) thread: OsString,
    /// The directory to mount on.
    pub(crate) mountpoint: PathBuf,
    /// Refuse changes.
    pub(crate) read_only: bool,
    /// Let other users in.
    pub(crate) allow_other: bool,
    /// Let set-id bits take effect.
    pub(crate) suid: bool,
    /// Let device files work.
    pub(crate) dev: bool,
    /// The user's own configuration trusts this repository, whoever owns it.
    pub(crate) trust_repository: bool,
    /// What else can be set of the mount.
    pub(crate) tuning: Tuning,
    /// The name under which another supervisor can adopt the worker; without one none does.
    pub(crate) adopt_as: Option<OsString>,
}

/// Why a command line makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// An argument that no option or value is.
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
    /// An option at the end that needs a value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// An option that has to be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value that cannot be.
    #[error(transparent)]
    Tuning(#[from] BadTuning),
}

impl Args {
    /// Reads the arguments behind the program's name.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut arguments = arguments.into_iter();
        let (mut repo, mut thread, mut mountpoint) = (None, None, None);
        let (mut read_only, mut allow_other, mut suid, mut dev, mut trust_repository) =
            (false, false, false, false, false);
        let mut tuning = Tuning::default();
        let mut adopt_as = None;
        while let Some(argument) = arguments.next() {
            if tuning.take(&argument, &mut |_| arguments.next())? {
                continue;
            }
            let mut value = |option| arguments.next().ok_or(ArgsError::NoValue(option));
            match argument.to_str() {
                Some("--repo") => repo = Some(value("--repo")?.into()),
                Some("--thread") => thread = Some(value("--thread")?),
                Some("--mountpoint") => mountpoint = Some(value("--mountpoint")?.into()),
                Some("--adopt-as") => adopt_as = Some(value("--adopt-as")?),
                Some("--read-only") => read_only = true,
                Some("--allow-other") => allow_other = true,
                Some("--suid") => suid = true,
                Some("--dev") => dev = true,
                Some("--trust-repository") => trust_repository = true,
                _ => return Err(ArgsError::Unknown(argument)),
            }
        }
        // Nobody writes.
        tuning.writeback &= !read_only;
        Ok(Self {
            repo: repo.ok_or(ArgsError::Missing("--repo"))?,
            thread: thread.ok_or(ArgsError::Missing("--thread"))?,
            mountpoint: mountpoint.ok_or(ArgsError::Missing("--mountpoint"))?,
            read_only,
            allow_other,
            suid,
            dev,
            trust_repository,
            tuning,
            adopt_as,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    const LEAST: [&str; 6] = ["--repo", "/r", "--thread", "main", "--mountpoint", "/m"];

    fn parse(more: &[&str]) -> Result<Args, ArgsError> {
        Args::parse(LEAST.iter().chain(more).map(OsString::from))
    }

    #[test]
    fn the_careful_choice_is_the_default() {
        let args = parse(&[]).unwrap();
        assert!(!args.read_only && !args.allow_other && !args.suid && !args.dev && !args.trust_repository);
        assert_eq!((args.tuning, args.adopt_as), (Tuning::default(), None));
    }

    #[test]
    fn every_option_is_understood() {
        let switches = ["--read-only", "--allow-other", "--suid", "--dev", "--trust-repository"];
        let values = ["--threads", "2", "--adopt-as", "x"];
        let args = parse(&[&switches[..], &values].concat()).unwrap();
        assert!(args.read_only && args.allow_other && args.suid && args.dev && args.trust_repository);
        assert_eq!((args.tuning.threads, args.adopt_as), (2, Some("x".into())));
    }

    #[test]
    fn nothing_is_held_back_where_nobody_writes() {
        assert!(parse(&["--writeback"]).unwrap().tuning.writeback);
        assert!(!parse(&["--writeback", "--read-only"]).unwrap().tuning.writeback);
    }

    #[test]
    fn paths_are_bytes() {
        let odd = OsString::from_vec(b"/m\xff".to_vec());
        let arguments = ["--repo", "/r", "--thread", "main", "--mountpoint"].map(OsString::from);
        let args = Args::parse(arguments.into_iter().chain([odd.clone()])).unwrap();
        assert_eq!(args.mountpoint.into_os_string(), odd);
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(parse(&["--reed-only"]), Err(ArgsError::Unknown("--reed-only".into())));
        let bad = BadTuning { option: "--threads", value: "0".into() };
        assert_eq!(parse(&["--threads", "0"]), Err(ArgsError::Tuning(bad)));
        assert_eq!(parse(&["--adopt-as"]), Err(ArgsError::NoValue("--adopt-as")));
        assert_eq!(Args::parse([]), Err(ArgsError::Missing("--repo")));
    }
}
