//! A program is built, changed, built again and run, with everything that belongs to it in the mount.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Load;

/// Modules of the program.
const MODULES: usize = 8;

fn cargo(dir: &Path, words: &[&str]) -> String {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        // What the tests themselves are built with, the home of the tool chain aside.
        if name == "RUSTFLAGS" || name.starts_with("CARGO") && name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    let output =
        command.current_dir(dir).args(words).args(["--offline", "--quiet", "--jobs=2"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "cargo {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn write_module(sources: &Path, module: usize, value: usize) {
    let text = format!("pub fn value() -> usize {{\n    {value}\n}}\n");
    fs::write(sources.join(format!("m{module}.rs")), text).unwrap();
}

pub(crate) fn run(load: &mut Load<'_>) {
    let place = load.dir.join("program");
    let sources = place.join("src");
    let manifest = "[package]\nname = \"program\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n";
    while load.goes_on() {
        fs::create_dir_all(&sources).unwrap();
        fs::write(place.join("Cargo.toml"), manifest).unwrap();
        let mut values: Vec<usize> = (0..MODULES).collect();
        let modules: Vec<String> = (0..MODULES).map(|module| format!("mod m{module};\n")).collect();
        let sum: Vec<String> = (0..MODULES).map(|module| format!("m{module}::value()")).collect();
        let main =
            format!("{}fn main() {{\n    print!(\"{{}}\", {});\n}}\n", modules.concat(), sum.join(" + "));
        fs::write(sources.join("main.rs"), main).unwrap();
        for (module, value) in values.iter().enumerate() {
            write_module(&sources, module, *value);
        }
        for _ in 0..3 {
            let changed = load.random.below(MODULES);
            values[changed] = load.random.below(10_000);
            write_module(&sources, changed, values[changed]);
            cargo(&place, &["build"]);
            load.goes_on();
            let said = Command::new(place.join("target/debug/program")).output().unwrap();
            let expected = values.iter().sum::<usize>().to_string();
            assert_eq!(String::from_utf8_lossy(&said.stdout), expected, "{said:?}");
            if !load.goes_on() {
                break;
            }
        }
        fs::remove_dir_all(&place).unwrap();
    }
}
