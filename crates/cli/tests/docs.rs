//! The documents are true of the code where that can be checked: names of tests, commands, dependencies and
//! files that they mention exist.

#![expect(clippy::unwrap_used, reason = "a document that cannot be read fails the test there and then")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use selvedge_cli::args::Cli;
use selvedge_cli::settings::KNOBS;

/// Documents whose tables name the test of each promise.
const PROMISES: [&str; 7] = [
    "ARCHITECTURE.md",
    "docs/design/crash-recovery.md",
    "docs/design/gc.md",
    "docs/design/passthrough.md",
    "docs/design/writeback.md",
    "docs/design/semantics.md",
    "docs/design/service.md",
];

fn root() -> PathBuf {
    fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The project's own files that end in `.{extension}`, relative to its root.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            let foreign = name == "target" || name.to_string_lossy().starts_with('.');
            if entry.file_type().unwrap().is_dir() {
                if !foreign {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The cells of a table's row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split(" | ").map(str::trim).collect())
}

/// The rows of every table whose heading row `wanted` accepts.
fn rows(text: &str, wanted: impl Fn(&[&str]) -> bool) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    let mut heading = None;
    for line in text.lines() {
        match (cells(line), heading) {
            (None, _) => heading = None,
            (Some(row), None) => heading = Some(wanted(&row)),
            (Some(row), Some(true)) if !row[0].starts_with("---") => found.push(row),
            (Some(_), Some(_)) => {}
        }
    }
    found
}

/// The names of all functions that carry `#[test]`.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files("rs") {
        let mut marked = false;
        for line in read(&path).lines().map(str::trim) {
            marked |= line == "#[test]";
            if let Some(rest) = line.strip_prefix("fn ") {
                if marked {
                    names.insert(rest.split(['(', '<']).next().unwrap().to_owned());
                }
                marked = false;
            }
        }
    }
    names
}

#[test]
fn every_promise_names_tests_that_exist() {
    let tests = tests();
    let mut missing = Vec::new();
    for document in PROMISES {
        let text = read(document);
        let promises = rows(&text, |heading| heading.last() == Some(&"Test"));
        assert!(!promises.is_empty(), "{document} has no table with a column Test");
        for row in promises {
            let named = quoted(row.last().unwrap());
            assert!(!named.is_empty(), "{document}: no test is named in {row:?}");
            missing.extend(named.into_iter().filter(|name| !tests.contains(*name)).map(str::to_owned));
        }
    }
    assert!(missing.is_empty(), "documents name tests that do not exist: {missing:#?}");
}

#[test]
fn the_readme_lists_every_command_and_no_other() {
    let text = read("README.md");
    let listed: BTreeSet<_> = rows(&text, |heading| heading == ["Command", "Does"])
        .into_iter()
        .map(|row| quoted(row[0])[0].split(' ').next().unwrap().to_owned())
        .collect();
    let built: BTreeSet<_> = Cli::command().get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    assert_eq!(listed, built);
}

#[test]
fn every_setting_is_documented_as_it_is() {
    let table: Vec<String> = KNOBS
        .iter()
        .map(|knob| {
            let default = knob.default.as_str();
            let default = if default.is_empty() { "none" } else { default };
            let unit = if knob.unit.is_empty() { "–" } else { knob.unit };
            let (scope, kind) = (knob.scope.as_str(), knob.kind.describe());
            format!("| `{}` | {kind} | {default} | {unit} | {scope} | {} |", knob.key(), knob.effect)
        })
        .collect();
    let text = read("docs/configuration.md");
    let documented: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(documented, table, "docs/configuration.md wants this table:\n{}", table.join("\n"));
}

#[test]
fn every_dependency_is_justified() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let text = read("docs/design/dependencies.md");
    let justified: BTreeSet<_> = rows(&text, |heading| heading[0] == "Dependency")
        .into_iter()
        .flat_map(|row| quoted(row[0]).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let used: BTreeSet<_> = manifest["workspace"]["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .filter(|name| !name.starts_with("selvedge-"))
        .cloned()
        .collect();
    assert_eq!(justified, used);
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in files("md") {
        let text = read(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || target.contains("://") {
                continue;
            }
            let linked = root().join(document.parent().unwrap()).join(path);
            assert!(linked.exists(), "{} links to {target}, which does not exist", document.display());
        }
    }
}
