//! Several programs append lines to one file, which must have each line once, and each program's in its order.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::Load;

const NAME: &str = "appended";

/// Lines that a program writes as fast as it can. Where no worker is asked they are millions a minute, and all of them are
/// read in the end.
const FAST: u64 = 100_000;

pub(crate) fn prepare(dir: &Path) {
    std::fs::write(dir.join(NAME), "").unwrap();
}

pub(crate) fn run(load: &mut Load<'_>) {
    let mut file = OpenOptions::new().append(true).open(load.dir.join(NAME)).unwrap();
    let mut line = 0_u64;
    while load.goes_on() {
        let filling = "x".repeat(load.random.below(200));
        let text = format!("{} {line} {filling}\n", load.number);
        assert_eq!(file.write(text.as_bytes()).unwrap(), text.len());
        line += 1;
        if line > FAST {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    std::fs::write(load.dir.join(format!("{NAME} by {}", load.number)), line.to_string()).unwrap();
}

pub(crate) fn check(dir: &Path, writers: usize) {
    let mut next = vec![0_u64; writers];
    for line in std::fs::read_to_string(dir.join(NAME)).unwrap().lines() {
        let mut words = line.split(' ');
        let writer: usize = words.next().unwrap().parse().unwrap();
        assert_eq!(words.next().unwrap(), next[writer].to_string(), "a line of {writer}");
        assert!(words.next().unwrap().bytes().all(|byte| byte == b'x'));
        next[writer] += 1;
    }
    for (writer, lines) in next.into_iter().enumerate() {
        let written = std::fs::read_to_string(dir.join(format!("{NAME} by {writer}"))).unwrap();
        assert_eq!(lines.to_string(), written, "lines of {writer}");
    }
}
