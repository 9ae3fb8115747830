//! Lines to the journal of systemd, in its native protocol, and to syslog, as `syslog(3)` sends them.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tracing::Level;

use super::Line;

/// What log lines are called there.
const NAME: &str = "selvedge";

/// Stands for the place of the socket, where the system's is another.
const SOCKET: &str = "SELVEDGE_LOG_SOCKET";

/// The facility of services of the system, where `syslog(3)` wants it.
const DAEMON: u8 = 3 << 3;

/// Who takes the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collector {
    Journal,
    Syslog,
}

/// A socket to a collector. Nobody waits for it: a line for which it has no room is not taken.
#[derive(Debug)]
pub(super) struct Datagrams {
    collector: Collector,
    socket: UnixDatagram,
    to: PathBuf,
}

impl Datagrams {
    pub(super) fn open(collector: Collector) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let usual = match collector {
            Collector::Journal => "/run/systemd/journal/socket",
            Collector::Syslog => "/dev/log",
        };
        let to = std::env::var_os(SOCKET).filter(|path| !path.is_empty());
        Ok(Self { collector, socket, to: to.unwrap_or_else(|| usual.into()).into() })
    }

    pub(super) const fn collector(&self) -> Collector {
        self.collector
    }

    pub(super) fn send(&self, line: &Line) -> io::Result<()> {
        let message = match self.collector {
            Collector::Journal => journal(line),
            Collector::Syslog => syslog(line),
        };
        self.socket.send_to(&message, &self.to).map(drop)
    }
}

/// How bad it is, as `syslog(3)` numbers it.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Fields, each on a line of its own; one that has lines itself with its length before it.
fn journal(line: &Line) -> Vec<u8> {
    let mut message = Vec::new();
    let mut field = |name: &str, value: &str| {
        message.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            message.push(b'\n');
            message.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            message.push(b'=');
        }
        message.extend_from_slice(value.as_bytes());
        message.push(b'\n');
    };
    field("MESSAGE", &line.text);
    field("PRIORITY", &priority(line.level).to_string());
    field("SYSLOG_IDENTIFIER", NAME);
    if let Some(mount) = &line.mount {
        field("SELVEDGE_MOUNT", mount);
    }
    message
}

fn syslog(line: &Line) -> Vec<u8> {
    let number = DAEMON | priority(line.level);
    let mount = line.mount.as_ref().map_or(String::new(), |mount| format!("{mount}: "));
    let text = line.text.replace('\n', " ");
    format!("<{number}>{NAME}[{}]: {mount}{text}", std::process::id()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, mount: Option<&str>) -> Line {
        Line {
            level: Level::WARN,
            time: String::new(),
            text: text.to_owned(),
            mount: mount.map(str::to_owned),
            by_worker: false,
        }
    }

    #[test]
    fn the_journal_gets_fields_and_lengths_before_lines() {
        let plain = b"MESSAGE=a\nPRIORITY=4\nSYSLOG_IDENTIFIER=selvedge\nSELVEDGE_MOUNT=m-1\n";
        assert_eq!(journal(&line("a", Some("m-1"))), plain);
        let two = b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=4\nSYSLOG_IDENTIFIER=selvedge\n";
        assert_eq!(journal(&line("a\nb", None)), two);
    }

    #[test]
    fn syslog_gets_one_line() {
        let wanted = format!("<28>selvedge[{}]: m-1: a b", std::process::id());
        assert_eq!(syslog(&line("a\nb", Some("m-1"))), wanted.into_bytes());
    }
}
