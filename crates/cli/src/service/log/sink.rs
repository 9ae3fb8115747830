//! Where lines end up.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::Line;
use super::datagram::{Collector, Datagrams};
use super::file::{Bounds, LogFile};
use crate::runtime::RuntimeDir;
use crate::service::{LOG, LOGS};
use crate::settings::ServiceSettings;

/// How many mounts' logs are kept, those of threads that are not mounted any more among them.
const KEPT_MOUNTS: usize = 100;

/// What is written where.
#[derive(Debug, Default)]
enum Place {
    /// Everything to standard error: a terminal, or the pipe to whoever started the service.
    #[default]
    Terminal,
    /// What is said of a mount to its log, and nothing else: the terminal is another's.
    Mounts(Arc<RuntimeDir>),
    /// What is said of a mount to its log, and what happens to all of them to the service's own.
    Background(Arc<RuntimeDir>, LogFile),
}

/// Where lines end up: in this terminal, or where a service in the background logs.
#[derive(Debug)]
pub(super) struct Sink {
    place: Place,
    /// Those of mounts of which something was logged.
    mounts: HashMap<String, LogFile>,
    /// Who takes the lines instead.
    collector: Option<Datagrams>,
    bounds: Bounds,
}

impl Default for Sink {
    fn default() -> Self {
        let bounds = Bounds { size: 1 << 20, kept: 1 };
        Self { place: Place::default(), mounts: HashMap::new(), collector: None, bounds }
    }
}

impl Sink {
    pub(super) fn set(&mut self, settings: &ServiceSettings) {
        self.bounds = Bounds { size: settings.log_size, kept: settings.log_files };
        let wanted = match &*settings.log {
            "journal" => Some(Collector::Journal),
            "syslog" => Some(Collector::Syslog),
            _ => None,
        };
        if wanted != self.collector.as_ref().map(Datagrams::collector) {
            // Without a socket the lines go to the files.
            self.collector = wanted.and_then(|collector| Datagrams::open(collector).ok());
        }
    }

    /// Logs to files in `runtime` from now on, or to whom the settings say; gives the service's own file.
    pub(super) fn open(&mut self, runtime: &Arc<RuntimeDir>) -> io::Result<OwnedFd> {
        let own = LogFile::open(runtime, LOG.to_owned())?;
        let copy = own.file().try_clone()?.into();
        self.mounts.clear();
        self.place = Place::Background(Arc::clone(runtime), own);
        Ok(copy)
    }

    /// Logs what is said of mounts to their files in `runtime` from now on, or to whom the settings say.
    pub(super) fn open_mounts(&mut self, runtime: &Arc<RuntimeDir>) {
        self.place = Place::Mounts(Arc::clone(runtime));
    }

    pub(super) fn write(&mut self, line: &Line) {
        let Line { time, level, text, .. } = line;
        let (runtime, own) = match &mut self.place {
            Place::Terminal => {
                let about = line.mount.as_ref().map_or(String::new(), |mount| format!("{mount}: "));
                drop(io::stderr().write_all(format!("{time} {level:>5} {about}{text}\n").as_bytes()));
                return;
            }
            Place::Mounts(_) if line.mount.is_none() => return,
            Place::Mounts(runtime) => (runtime, None),
            Place::Background(runtime, own) => (runtime, Some(own)),
        };
        // A collector that takes no lines, or is not there, leaves them to the files.
        if self.collector.as_ref().is_some_and(|collector| collector.send(line).is_ok()) {
            return;
        }
        let bytes = format!("{time} {level:>5} {text}\n").into_bytes();
        if let Some(mount) = &line.mount
            && let Some(file) = file_of(&mut self.mounts, runtime, mount)
        {
            file.write(runtime, self.bounds, &bytes);
            // What a worker says is its mount's affair; what happens to a mount, the service's too.
            if line.by_worker {
                return;
            }
        }
        if let Some(own) = own {
            own.write(runtime, self.bounds, &bytes);
        }
    }

    /// Nothing more is said of a mount.
    pub(super) fn close(&mut self, mount: &str) {
        self.mounts.remove(mount);
    }
}

fn file_of<'a>(
    mounts: &'a mut HashMap<String, LogFile>,
    runtime: &RuntimeDir,
    mount: &str,
) -> Option<&'a mut LogFile> {
    if !mounts.contains_key(mount) {
        match mkdirat(runtime.instance(), LOGS, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(_) => return None,
        }
        let file = LogFile::open(runtime, format!("{LOGS}/{mount}.log")).ok()?;
        mounts.insert(mount.to_owned(), file);
        prune(runtime, mounts);
    }
    mounts.get_mut(mount)
}

/// Removes the oldest logs of mounts that are gone, if there are too many.
fn prune(runtime: &RuntimeDir, open: &HashMap<String, LogFile>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(directory) = openat(runtime.instance(), LOGS, flags, Mode::empty()) else { return };
    let Ok(entries) = Dir::read_from(&directory) else { return };
    let mut logs: HashMap<String, (i64, Vec<String>)> = HashMap::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        let Some((mount, _)) = name.rsplit_once(".log") else { continue };
        let Ok(status) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let (newest, files) = logs.entry(mount.to_owned()).or_default();
        *newest = (*newest).max(status.st_mtime);
        files.push(name.to_owned());
    }
    let surplus = logs.len().saturating_sub(KEPT_MOUNTS);
    let mut gone: Vec<_> = logs.into_iter().filter(|(mount, _)| !open.contains_key(mount)).collect();
    gone.sort_by_key(|(_, (newest, _))| *newest);
    for (_, (_, files)) in gone.into_iter().take(surplus) {
        for file in files {
            let _ = unlinkat(&directory, file, AtFlags::empty());
        }
    }
}
