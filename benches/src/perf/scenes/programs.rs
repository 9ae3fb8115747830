//! Whole programs that write a lot: a build, an unpacked archive, an installation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::super::options::Options;
use super::super::row::{Goal, Place, Row};
use super::super::scene::Scene;
use super::super::tree::{Numbers, check_small_files, small_files};
use crate::run;

/// Crates of the workspace that is built, and modules of each.
const CRATES: usize = 6;
const MODULES: usize = 6;
/// Packages that are installed, and files of each.
const PACKAGES: usize = 30;
const PACKAGE_FILES: usize = 60;

pub(super) fn scene(options: &Options) -> Scene {
    let count = options.scaled(5000);
    let rows = vec![
        Row::time("cargo build", |place| {
            run(Command::new("cargo")
                .args(["build", "--quiet", "--offline"])
                .current_dir(place.root.join("workspace"))
                .env("CARGO_TARGET_DIR", target(place))
                .env_remove("RUSTFLAGS"))
            .map(drop)
        })
        .after(|place| {
            let said = run(&mut Command::new(target(place).join("debug/app")))?;
            ensure!(said.trim().parse::<u64>().is_ok(), "what was built says {said:.100}");
            Ok(fs::remove_dir_all(target(place))?)
        })
        .must(Goal::Ratio(0.90)),
        Row::time("tar x", |place| {
            run(Command::new("tar").arg("xf").arg(archive(place)).arg("-C").arg(unpacked(place))).map(drop)
        })
        .before(|place| Ok(fs::create_dir(unpacked(place))?))
        .after(move |place| {
            check_small_files(&unpacked(place), count)?;
            Ok(fs::remove_dir_all(unpacked(place))?)
        })
        .must(Goal::Ratio(0.60)),
        Row::time("npm ci", |place| npm(&project(place), &["ci"]))
            .before(|place| {
                run(Command::new("cp").arg("-a").arg(place.root.join("project")).arg(project(place)))
                    .map(drop)
            })
            .after(|place| {
                for number in 0..PACKAGES {
                    let module = project(place).join(format!("node_modules/p{number}/f7.js"));
                    ensure!(
                        fs::read_to_string(module)? == package_file(number, 7),
                        "package {number} differs"
                    );
                }
                Ok(fs::remove_dir_all(project(place))?)
            })
            .must(Goal::Ratio(0.60)),
    ];
    let tree = move |root: &Path| {
        workspace(&root.join("workspace"))?;
        let files = root.join("files");
        small_files(&files, count)?;
        run(Command::new("tar").arg("cf").arg(root.join("archive.tar")).arg("-C").arg(&files).arg("."))?;
        fs::remove_dir_all(&files)?;
        packages(&root.join("project"))
    };
    Scene { name: "programs", tree: Box::new(tree), rows }
}

fn target(place: &Place<'_>) -> PathBuf {
    place.root.join(format!("target-{}", place.turn))
}

fn archive(place: &Place<'_>) -> PathBuf {
    place.root.join("archive.tar")
}

fn unpacked(place: &Place<'_>) -> PathBuf {
    place.root.join(format!("unpacked-{}", place.turn))
}

fn project(place: &Place<'_>) -> PathBuf {
    place.root.join(format!("project-{}", place.turn))
}

/// A workspace of crates that use each other and nothing else.
fn workspace(root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    let mut numbers = Numbers::new(1);
    let package =
        |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    for number in 0..CRATES {
        let dir = root.join(format!("part{number}/src"));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("../Cargo.toml"), package(&format!("part{number}")))?;
        let modules: Vec<String> = (0..MODULES).map(|module| format!("pub mod m{module};\n")).collect();
        fs::write(dir.join("lib.rs"), modules.concat())?;
        for module in 0..MODULES {
            fs::write(dir.join(format!("m{module}.rs")), module_text(&mut numbers))?;
        }
    }
    let dir = root.join("app/src");
    fs::create_dir_all(&dir)?;
    let parts = |line: fn(usize) -> String| (0..CRATES).map(line).collect::<Vec<_>>().concat();
    let needs = parts(|number| format!("part{number} = {{ path = \"../part{number}\" }}\n"));
    fs::write(dir.join("../Cargo.toml"), format!("{}[dependencies]\n{needs}", package("app")))?;
    let sum = parts(|number| format!(" + part{number}::m0::sum(7)"));
    fs::write(dir.join("main.rs"), format!("fn main() {{\n    println!(\"{{}}\", 0{sum});\n}}\n"))?;
    fs::write(root.join("Cargo.toml"), "[workspace]\nmembers = [\"app\", \"part*\"]\nresolver = \"2\"\n")?;
    run(Command::new("cargo").args(["generate-lockfile", "--offline", "--quiet"]).current_dir(root)).map(drop)
}

fn module_text(numbers: &mut Numbers) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("use std::collections::BTreeMap;\n\n");
    for function in 0..8 {
        let (a, b) = (numbers.below(1000), numbers.below(1000));
        let _ = write!(
            text,
            "#[derive(Debug, Clone, PartialEq, Default)]\npub struct S{function} {{\n    pub map: BTreeMap<u64, \
             Vec<String>>,\n    pub count: u64,\n}}\n\nimpl S{function} {{\n    pub fn add(&mut self, key: u64) -> \
             u64 {{\n        self.count = self.count.wrapping_mul({a}).wrapping_add(key);\n        \
             self.map.entry(key).or_default().push(format!(\"{{key}} {b}\"));\n        self.map.values()\
             .map(|v| v.len() as u64).sum::<u64>() + self.count % 3\n    }}\n}}\n\n"
        );
    }
    text.push_str("pub fn sum(n: u64) -> u64 {\n    let mut all = 0;\n");
    for function in 0..8 {
        let _ = writeln!(text, "    all += (0..n).map(|i| S{function}::default().add(i)).sum::<u64>();");
    }
    text.push_str("    all\n}\n");
    text
}

fn npm(project: &Path, words: &[&str]) -> Result<()> {
    let quiet = ["--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier"];
    let cache = project.join(".cache");
    run(Command::new("npm").args(words).args(quiet).arg("--cache").arg(cache).current_dir(project)).map(drop)
}

fn package_file(package: usize, file: usize) -> String {
    format!("module.exports = {{ package: {package}, file: {file} }};\n").repeat(20)
}

/// A project that needs packages which lie beside it as archives, with its lock file.
fn packages(project: &Path) -> Result<()> {
    let archives = project.join("archives");
    fs::create_dir_all(&archives)?;
    if run(Command::new("npm").arg("--version")).is_err() {
        // The row says that there is no npm.
        return Ok(());
    }
    let mut needs = Vec::new();
    for number in 0..PACKAGES {
        let name = format!("p{number}");
        let dir = project.join("making/package");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("package.json"), format!("{{\"name\": \"{name}\", \"version\": \"1.0.0\"}}\n"))?;
        for file in 0..PACKAGE_FILES {
            fs::write(dir.join(format!("f{file}.js")), package_file(number, file))?;
        }
        let archive = archives.join(format!("{name}.tgz"));
        let making = project.join("making");
        run(Command::new("tar").arg("czf").arg(&archive).arg("-C").arg(&making).arg("package"))?;
        fs::remove_dir_all(&making)?;
        needs.push(format!("    \"{name}\": \"file:archives/{name}.tgz\""));
    }
    let text = format!(
        "{{\n  \"name\": \"project\",\n  \"version\": \"1.0.0\",\n  \"dependencies\": {{\n{}\n  }}\n}}\n",
        needs.join(",\n")
    );
    fs::write(project.join("package.json"), text)?;
    npm(project, &["install", "--package-lock-only"])?;
    Ok(fs::remove_dir_all(project.join(".cache"))?)
}
