//! Everything that can be set: the one table from which the files are read, `selvedge config` prints, and the
//! documentation is checked.

use selvedge_mount::{MAX_THREADS, Passing, Profile, WRITE_SIZES};

use super::value::Kind;

/// Something that can be set.
#[derive(Debug)]
pub struct Knob {
    /// The section of `config.toml` it stands in.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is unless somebody sets it.
    pub default: Fallback,
    /// What numbers count; empty where there is nothing to count.
    pub unit: &'static str,
    /// Whose files may set it.
    pub scope: Scope,
    /// What it does, for people.
    pub effect: &'static str,
}

/// What a setting is unless somebody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This, as it would be written on a command line.
    Text(&'static str),
    /// Yes for root, no for others.
    ForRoot,
    /// Nothing: it is not in force.
    Unset,
}

/// Whose files may set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The user's own alone: it grants rights, or concerns more than one repository.
    User,
    /// A repository's as well, whoever wrote it.
    Repository,
}

impl Scope {
    /// How documents name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Repository => "user, repository",
        }
    }
}

impl Fallback {
    /// How documents name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text(text) => text,
            Self::ForRoot => "true for root",
            Self::Unset => "unset",
        }
    }
}

impl Knob {
    /// Its name on command lines and in messages.
    pub fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it. What grants rights has none.
    pub fn variable(&self) -> Option<String> {
        let name = format!("SELVEDGE_{}_{}", self.section, self.name).to_uppercase();
        (self.section != SAFE).then_some(name)
    }

    /// The one that is called so.
    pub fn find(key: &str) -> Option<&'static Self> {
        KNOBS.iter().find(|knob| knob.key() == key)
    }
}

const MOUNT: &str = "mount";
const SERVICE: &str = "service";
const STORE: &str = "store";
const SAFE: &str = "safe";

const PASSING: &[&str] = &[Passing::Auto.as_str(), Passing::On.as_str(), Passing::Off.as_str()];

const PROFILES: &[&str] = &[Profile::Throughput.as_str(), Profile::SmallFiles.as_str()];

/// Ten years, in milliseconds: as long as for ever.
const EVER: u64 = 10 * 365 * 86_400 * 1000;

/// Everything that can be set.
pub static KNOBS: &[Knob] = &[
    Knob {
        section: MOUNT,
        name: "threads",
        kind: Kind::Number { least: 1, most: MAX_THREADS },
        default: Fallback::Text("4"),
        unit: "threads",
        scope: Scope::Repository,
        effect: "how many requests a worker serves at once",
    },
    Knob {
        section: MOUNT,
        name: "entry_ttl",
        kind: Kind::Seconds { least: 0, most: EVER },
        default: Fallback::Text("86400"),
        unit: "s",
        scope: Scope::Repository,
        effect: "how long the kernel remembers what a name stands for; 0: it asks the worker each time",
    },
    Knob {
        section: MOUNT,
        name: "attr_ttl",
        kind: Kind::Seconds { least: 0, most: EVER },
        default: Fallback::Text("86400"),
        unit: "s",
        scope: Scope::Repository,
        effect: "how long the kernel remembers a file's attributes; where one reply tells names and attributes, the shorter of both times counts",
    },
    Knob {
        section: MOUNT,
        name: "negative_ttl",
        kind: Kind::Seconds { least: 0, most: EVER },
        default: Fallback::Text("86400"),
        unit: "s",
        scope: Scope::Repository,
        effect: "how long the kernel remembers that there is no such name",
    },
    Knob {
        section: MOUNT,
        name: "profile",
        kind: Kind::Choice(PROFILES),
        default: Fallback::Text("throughput"),
        unit: "",
        scope: Scope::Repository,
        effect: "what mounts are fast at: reading and writing, or small files that are read again, which the kernel then opens without asking; that excludes passthrough, writeback and direct_io",
    },
    Knob {
        section: MOUNT,
        name: "passthrough",
        kind: Kind::Choice(PASSING),
        default: Fallback::Text("auto"),
        unit: "",
        scope: Scope::Repository,
        effect: "the kernel reads and writes changed files itself: wherever it can, always (or there is no mount), never",
    },
    Knob {
        section: MOUNT,
        name: "writeback",
        kind: Kind::Switch,
        default: Fallback::Text("false"),
        unit: "",
        scope: Scope::Repository,
        effect: "the kernel holds back what programs write until a file is synced or closed, or for seconds; what it holds is lost if worker and service die together; excludes passthrough and direct_io",
    },
    Knob {
        section: MOUNT,
        name: "direct_io",
        kind: Kind::Switch,
        default: Fallback::Text("false"),
        unit: "",
        scope: Scope::Repository,
        effect: "every read and write of a file goes to the worker, and the page cache keeps nothing of it",
    },
    Knob {
        section: MOUNT,
        name: "max_write",
        kind: Kind::Number { least: WRITE_SIZES.0, most: WRITE_SIZES.1 },
        default: Fallback::Text("1048576"),
        unit: "bytes",
        scope: Scope::Repository,
        effect: "how much one write request carries at most",
    },
    Knob {
        section: MOUNT,
        name: "max_background",
        kind: Kind::Number { least: 1, most: u16::MAX as u64 },
        default: Fallback::Text("16"),
        unit: "requests",
        scope: Scope::Repository,
        effect: "how many requests that no program waits for, such as reading ahead, the kernel has in flight at most",
    },
    Knob {
        section: MOUNT,
        name: "read_only",
        kind: Kind::Switch,
        default: Fallback::Text("false"),
        unit: "",
        scope: Scope::Repository,
        effect: "mounts refuse changes, as with --read-only; --read-write mounts otherwise",
    },
    Knob {
        section: MOUNT,
        name: "allow_other",
        kind: Kind::Switch,
        default: Fallback::ForRoot,
        unit: "",
        scope: Scope::User,
        effect: "other users are let in as far as permissions allow, as with --allow-other; --no-allow-other keeps them out",
    },
    Knob {
        section: MOUNT,
        name: "uid",
        kind: Kind::Number { least: 0, most: u32::MAX as u64 - 1 },
        default: Fallback::Unset,
        unit: "",
        scope: Scope::User,
        effect: "every file is shown to belong to this user, to the kernel's checks too; what the thread keeps stays each file's own",
    },
    Knob {
        section: MOUNT,
        name: "gid",
        kind: Kind::Number { least: 0, most: u32::MAX as u64 - 1 },
        default: Fallback::Unset,
        unit: "",
        scope: Scope::User,
        effect: "every file is shown to belong to this group, as with uid",
    },
    Knob {
        section: MOUNT,
        name: "trace_writes",
        kind: Kind::Switch,
        default: Fallback::Text("false"),
        unit: "",
        scope: Scope::User,
        effect: "each write request is logged with node, place, length and process, without its content",
    },
    Knob {
        section: SERVICE,
        name: "grace",
        kind: Kind::Seconds { least: 50, most: 10_000 },
        default: Fallback::Text("2"),
        unit: "s",
        scope: Scope::User,
        effect: "how long a worker that shall end has for each step: the request, SIGTERM, SIGKILL",
    },
    Knob {
        section: SERVICE,
        name: "mount_deadline",
        kind: Kind::Seconds { least: 100, most: 30_000 },
        default: Fallback::Text("10"),
        unit: "s",
        scope: Scope::User,
        effect: "how long a worker may take until its mount is ready",
    },
    Knob {
        section: SERVICE,
        name: "flush_deadline",
        kind: Kind::Seconds { least: 100, most: 60_000 },
        default: Fallback::Text("30"),
        unit: "s",
        scope: Scope::User,
        effect: "how long a worker that is being stopped may write out what is not on the disk yet",
    },
    Knob {
        section: SERVICE,
        name: "hang_limit",
        kind: Kind::Seconds { least: 0, most: EVER },
        default: Fallback::Text("30"),
        unit: "s",
        scope: Scope::User,
        effect: "how long a worker may answer nothing, or a request get nowhere, before the worker is replaced; 0: for ever",
    },
    Knob {
        section: SERVICE,
        name: "restart_budget",
        kind: Kind::Number { least: 0, most: 1000 },
        default: Fallback::Text("5"),
        unit: "workers",
        scope: Scope::User,
        effect: "how many successors of a worker in a row may die before they have served anything; then the mount is taken down",
    },
    Knob {
        section: SERVICE,
        name: "idle",
        kind: Kind::Seconds { least: 0, most: EVER },
        default: Fallback::Text("0"),
        unit: "s",
        scope: Scope::User,
        effect: "the service ends when it has had no mount for so long; 0: never",
    },
    Knob {
        section: SERVICE,
        name: "core",
        kind: Kind::Switch,
        default: Fallback::Text("false"),
        unit: "",
        scope: Scope::User,
        effect: "workers that crash dump core, as far as the system lets them; programs wait meanwhile, seconds for each GiB",
    },
    Knob {
        section: SERVICE,
        name: "log",
        kind: Kind::Choice(&["file", "journal", "syslog"]),
        default: Fallback::Text("file"),
        unit: "",
        scope: Scope::User,
        effect: "where the log goes: files of the service and of each mount in the runtime directory, the journal of systemd, or syslog; what those two do not take goes to the files",
    },
    Knob {
        section: SERVICE,
        name: "log_size",
        kind: Kind::Number { least: 4096, most: 1 << 30 },
        default: Fallback::Text("1048576"),
        unit: "bytes",
        scope: Scope::User,
        effect: "how large a log file grows before it begins anew",
    },
    Knob {
        section: SERVICE,
        name: "log_files",
        kind: Kind::Number { least: 1, most: 100 },
        default: Fallback::Text("2"),
        unit: "files",
        scope: Scope::User,
        effect: "how many full log files are kept of the service and of each mount",
    },
    Knob {
        section: SERVICE,
        name: "log_filter",
        kind: Kind::Filter,
        default: Fallback::Text("info"),
        unit: "",
        scope: Scope::User,
        effect: "what the service and its workers log: a level (error, warn, info, debug, trace), or target=level pairs with commas between",
    },
    Knob {
        section: STORE,
        name: "large_blob",
        kind: Kind::Number { least: 1, most: 1 << 20 },
        default: Fallback::Text("65536"),
        unit: "bytes",
        scope: Scope::Repository,
        effect: "contents from this size on are stored as plain files, smaller ones in the database",
    },
    Knob {
        section: SAFE,
        name: "repositories",
        kind: Kind::Directories,
        default: Fallback::Text(""),
        unit: "",
        scope: Scope::User,
        effect: "directories whose .selvedge is trusted although another user owns it or others may write it",
    },
];
