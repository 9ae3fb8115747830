//! Programs that are killed in the middle of a change, in a directory that others change as well.
//!
//! What such a program was told is true, and of the change that it was waiting for all is done or nothing.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Load;

/// Where a victim works.
const PLACE: &str = "SELVEDGE_TEST_VICTIM";

/// What it says after each change.
const SAID: &str = "acknowledged ";

/// The names that a victim uses.
const NAMES: [&str; 3] = ["one", "two", "three"];

/// Changes until everything is as it was before.
const ROUND: usize = 8;

/// What has those names after so many changes: nothing, a file, or a directory.
const STATES: [&str; ROUND] = ["---", "f--", "ff-", "-ff", "--f", "d-f", "f-d", "f--"];

fn change(at: &dyn Fn(usize) -> PathBuf, number: usize) -> std::io::Result<()> {
    let [one, two, three] = [at(0), at(1), at(2)];
    match number % ROUND {
        0 => OpenOptions::new().write(true).create_new(true).open(one).map(drop),
        1 => fs::hard_link(one, two),
        2 => Ok(renameat_with(CWD, one, CWD, three, RenameFlags::NOREPLACE)?),
        3 => fs::remove_file(two),
        4 => fs::create_dir(one),
        5 => Ok(renameat_with(CWD, one, CWD, three, RenameFlags::EXCHANGE)?),
        6 => fs::remove_dir(three),
        _ => fs::remove_file(one),
    }
}

fn place(directory: &Path, who: &str) -> impl Fn(usize) -> PathBuf {
    let (directory, who) = (directory.to_owned(), who.to_owned());
    move |name| directory.join(format!("{who} {}", NAMES[name]))
}

fn state(at: &dyn Fn(usize) -> PathBuf) -> String {
    let kind = |name| match fs::symlink_metadata(at(name)) {
        Ok(found) if found.is_dir() => 'd',
        Ok(_) => 'f',
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => '-',
        Err(error) => panic!("{error}"),
    };
    (0..NAMES.len()).map(kind).collect()
}

/// The body of the victim's process: nothing, unless this program has been started as one.
#[test]
fn victim() {
    let Some(place_of_work) = std::env::var_os(PLACE) else { return };
    let path = PathBuf::from(place_of_work);
    let at = place(path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    for number in 0.. {
        change(&at, number).unwrap_or_else(|error| panic!("change {number}: {error}"));
        if writeln!(std::io::stdout(), "{SAID}{number}").is_err() {
            return;
        }
    }
}

pub(crate) fn run(load: &mut Load<'_>) {
    let directory = load.dir.join("crowd");
    let mut round = 0;
    while load.goes_on() {
        let who = format!("victim{} {round}", load.number);
        round += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "load::abandoned::victim", "--nocapture", "--test-threads=1"])
            .env(PLACE, directory.join(&who))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            let said = lines.map_while(Result::ok);
            // What is said first may follow something of the test harness on the same line.
            said.filter_map(|line| line.split_once(SAID)?.1.parse::<usize>().ok()).last()
        });
        std::thread::sleep(Duration::from_millis(100 + load.random.below(300) as u64));
        assert!(child.try_wait().unwrap().is_none(), "{who} ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let done = reader.join().unwrap().map_or(0, |last| last + 1);
        let at = place(&directory, &who);
        let found = state(&at);
        let possible = [STATES[done % ROUND], STATES[(done + 1) % ROUND]];
        assert!(possible.contains(&&*found), "{who}: {found} after {done} changes");
        clear(&at, &found);
    }
}

fn clear(at: &dyn Fn(usize) -> PathBuf, found: &str) {
    for (name, kind) in found.chars().enumerate() {
        match kind {
            'd' => fs::remove_dir(at(name)).unwrap(),
            'f' => fs::remove_file(at(name)).unwrap(),
            _ => {}
        }
    }
}
