//! The tour in the README is what the commands print: it is walked, and every answer compared.
//!
//! With `SELVEDGE_TOUR_TREE` naming a checkout, the tour is walked in a clone of that, and printed as it went: that is
//! the text for the README.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sandbox::{SELVEDGE, Sandbox, finish};

/// A command, and what it prints.
struct Step {
    command: String,
    answer: Vec<String>,
    /// Whether an empty line stands before it.
    spaced: bool,
}

/// The steps that the README shows.
fn steps() -> Vec<Step> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (_, tour) = readme.split_once("## A tour").expect("a tour");
    let block = tour.split("```").nth(1).expect("its commands");
    let mut steps: Vec<Step> = Vec::new();
    let mut spaced = false;
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { command: command.to_owned(), answer: Vec::new(), spaced });
                spaced = false;
            }
            (None, _) if line.is_empty() => spaced = true,
            (None, Some(step)) => step.answer.push(line.to_owned()),
            (None, None) => panic!("an answer before the first command: {line}"),
        }
    }
    steps
}

/// A word without what differs from one machine and time to another.
fn plain(word: &str) -> String {
    let inner = word.trim_matches(|c| "(),;".contains(c));
    let is_number = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let is_time = |word: &str| {
        word.ends_with(['s', 'm', 'h', 'd']) && word.chars().all(|c| c.is_ascii_digit() || "dhms".contains(c))
    };
    let is_id = |word: &str| word.len() >= 7 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let told = match inner {
        "B" | "KiB" | "MiB" | "GiB" => "UNIT",
        inner if is_id(inner) => "ID",
        inner if is_number(inner) => "NUMBER",
        inner if is_time(inner) => "TIME",
        inner => inner,
    };
    word.replacen(inner, told, usize::from(!inner.is_empty()))
}

fn plain_lines(lines: &[String]) -> Vec<Vec<String>> {
    lines.iter().map(|line| line.split_whitespace().map(plain).collect()).collect()
}

/// Where the tour is walked.
struct Walk {
    sandbox: Sandbox,
    directory: PathBuf,
    /// What stands for the processes that the README names.
    processes: BTreeMap<String, String>,
}

impl Walk {
    fn new(subject: &str) -> Self {
        let sandbox = Sandbox::empty();
        let tree = sandbox.path("weave");
        let walk = Self { directory: tree.clone(), processes: BTreeMap::new(), sandbox };
        fs::create_dir(walk.sandbox.path("programs")).unwrap();
        std::os::unix::fs::symlink(SELVEDGE, walk.sandbox.path("programs/selvedge")).unwrap();
        let made = match std::env::var("SELVEDGE_TOUR_TREE") {
            Ok(checkout) => walk.bash(&format!("git clone --quiet '{checkout}' ."), &tree),
            Err(_) => walk.bash(
                &format!(
                    "git init --quiet . && mkdir src && echo '# Selvedge' > README.md && echo test: > justfile && \
                     echo code > src/lib.rs && git add . && git commit --quiet --message '{subject}'"
                ),
                &tree,
            ),
        };
        assert!(made.is_empty(), "{made:?}");
        walk
    }

    /// What a shell prints for `command`, the sandbox called as the README calls its home.
    fn bash(&self, command: &str, directory: &Path) -> Vec<String> {
        fs::create_dir_all(directory).unwrap();
        let path = format!("{}:{}", self.sandbox.path("programs").display(), std::env::var("PATH").unwrap());
        let mut bash = self.sandbox.program("bash");
        bash.args(["-c", &format!("{{ {command}\n}} 2>&1")]).current_dir(directory).env("PATH", path);
        for who in ["AUTHOR", "COMMITTER"] {
            bash.env(format!("GIT_{who}_NAME"), "Ada").env(format!("GIT_{who}_EMAIL"), "ada@example.invalid");
        }
        let outcome = finish(&mut bash);
        let said = outcome.stdout.replace(self.sandbox.root().to_str().unwrap(), "/home/ada");
        said.lines().map(str::to_owned).collect()
    }

    /// Takes a step: what it prints, once that is what the README shows, or at last.
    fn take(&mut self, step: &Step) -> Vec<String> {
        if let Some(to) = step.command.strip_prefix("cd ") {
            self.directory = fs::canonicalize(self.directory.join(to)).unwrap();
            return Vec::new();
        }
        let words = step.command.split(' ').map(|word| self.processes.get(word).map_or(word, String::as_str));
        let command: String = words.collect::<Vec<_>>().join(" ");
        let deadline = Instant::now() + Duration::from_secs(10);
        let said = loop {
            let said = self.bash(&command, &self.directory.clone());
            // A worker that was killed is replaced in a moment.
            let may_change = command == "selvedge list" && Instant::now() < deadline;
            if !may_change || plain_lines(&said) == plain_lines(&step.answer) {
                break said;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        for (shown, said) in step.answer.iter().zip(&said) {
            let number = |line: &str| {
                let (_, rest) = line.split_once("(worker ")?;
                Some(rest.trim_end_matches(')').to_owned())
            };
            if let (Some(shown), Some(said)) = (number(shown), number(said)) {
                self.processes.insert(shown, said);
            }
        }
        said
    }
}

#[test]
fn the_tour_in_the_readme_is_what_the_commands_print() {
    let steps = steps();
    assert!(steps.len() > 20);
    // The last commit of the tree, which git shows.
    let shown = steps.iter().find(|step| step.command.starts_with("git -C ../other log")).expect("a log");
    let (_, subject) = shown.answer[0].split_once(' ').unwrap();
    let mut walk = Walk::new(subject);
    let (mut text, mut wrong) = (String::new(), Vec::new());
    for step in &steps {
        let said = walk.take(step);
        if plain_lines(&said) != plain_lines(&step.answer) {
            wrong.push(step.command.clone());
        }
        let space = if step.spaced { "\n" } else { "" };
        let _ = writeln!(text, "{space}$ {}", step.command);
        for line in &said {
            let _ = writeln!(text, "{line}");
        }
    }
    if std::env::var_os("SELVEDGE_TOUR_TREE").is_some() {
        println!("{text}");
    } else {
        assert!(wrong.is_empty(), "the README shows otherwise what these print: {wrong:#?}\n{text}");
    }
}
