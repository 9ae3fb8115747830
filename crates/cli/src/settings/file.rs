//! Reading `config.toml`.

use std::io::{ErrorKind as IoErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::knob::{KNOBS, Knob, Scope};
use super::value::{Value, Written};
use crate::error::{CliError, Result};
use crate::ui::show;

/// The longest file read, in bytes: nobody's settings are longer, and a mistaken path may be.
const MAX_CONFIG: u64 = 1 << 20;

/// A setting in a file.
pub(super) struct Line {
    pub(super) knob: &'static Knob,
    pub(super) value: Value,
    /// Counted from 1.
    pub(super) number: usize,
}

/// What the file at `path` sets, which is of somebody whose word goes as far as `scope`; a missing file sets nothing.
pub(super) fn read(path: &Path, scope: Scope) -> Result<Vec<Line>> {
    let tried = || format!("cannot read the settings in {}", show(path));
    let file = match std::fs::File::open(path) {
        Err(error) if matches!(error.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        opened => opened.map_err(|error| CliError::io(tried(), &error))?,
    };
    let metadata = file.metadata().map_err(|error| CliError::io(tried(), &error))?;
    // A repository has been checked as a whole, and its file grants nothing.
    if scope == Scope::User {
        let caller = rustix::process::geteuid().as_raw();
        if (metadata.uid() != caller && metadata.uid() != 0) || metadata.mode() & 0o002 != 0 {
            return Err(CliError::not_permitted(format!(
                "{}: the file belongs to another user or others may write it",
                tried()
            ))
            .hint("settings may vouch for repositories, so they must be your own: chown or chmod the file, or set XDG_CONFIG_HOME"));
        }
    }
    let mut text = String::new();
    file.take(MAX_CONFIG).read_to_string(&mut text).map_err(|error| CliError::io(tried(), &error))?;
    parse(path, &text, scope)
}

fn parse(path: &Path, text: &str, scope: Scope) -> Result<Vec<Line>> {
    let line_of = |span: Range<usize>| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
    let wrong = |line: usize, what: String| CliError::usage(format!("{} line {line}: {what}", show(path)));
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, &line_of);
        wrong(line, error.message().trim().to_owned()).hint("correct the file, or remove the line")
    })?;
    let mut lines = Vec::new();
    for (section, value) in document.get_ref() {
        let name = section.get_ref();
        let known = KNOBS.iter().any(|knob| knob.section == &**name);
        let DeValue::Table(settings) = value.get_ref() else {
            let what = if known { format!("{name} is a section: [{name}]") } else { unknown_section(name) };
            return Err(wrong(line_of(section.span()), what).hint("settings stand in sections"));
        };
        if !known {
            return Err(wrong(line_of(section.span()), unknown_section(name)).hint(sections()));
        }
        for (key, value) in settings {
            let (line, key) = (line_of(key.span()), key.get_ref());
            let Some(knob) = KNOBS.iter().find(|knob| knob.section == &**name && knob.name == &**key) else {
                return Err(wrong(line, format!("there is no setting {key} in [{name}]")).hint(names(name)));
            };
            if scope == Scope::Repository && knob.scope == Scope::User {
                return Err(wrong(line, format!("a repository's file may not set {}", knob.key()))
                    .hint("set it in your own configuration, and remove the line here"));
            }
            let value = knob.kind.accept(&written(value)).map_err(|wanted| {
                wrong(line_of(value.span()), format!("{} wants {wanted}", knob.key()))
                    .hint("correct the value, or remove the line")
            })?;
            lines.push(Line { knob, value, number: line });
        }
    }
    Ok(lines)
}

fn unknown_section(name: &str) -> String {
    format!("there is no section [{name}]")
}

fn sections() -> String {
    let mut sections: Vec<&str> = KNOBS.iter().map(|knob| knob.section).collect();
    sections.dedup();
    format!("there are [{}]; selvedge config lists all settings", sections.join("], ["))
}

fn names(section: &str) -> String {
    let names: Vec<&str> =
        KNOBS.iter().filter(|knob| knob.section == section).map(|knob| knob.name).collect();
    format!("[{section}] has {}", names.join(", "))
}

fn written(value: &Spanned<DeValue<'_>>) -> Written {
    match value.get_ref() {
        DeValue::Boolean(on) => Written::Switch(*on),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).map_or(Written::Other, Written::Number)
        }
        DeValue::Float(number) => number.as_str().parse().map_or(Written::Other, Written::Fraction),
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Array(items) => Written::List(items.iter().map(written).collect()),
        DeValue::Datetime(_) | DeValue::Table(_) => Written::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str, scope: Scope, saying: &str) {
        let error = parse(Path::new("/c.toml"), text, scope).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.message.starts_with(saying), "{error}");
    }

    #[test]
    fn unknown_keys_are_errors_that_name_file_and_line() {
        let text = "[safe]\nrepositories = []\nrepositoires = []\n";
        fails(text, Scope::User, "/c.toml line 3: there is no setting repositoires in [safe]");
        fails("\n[mounts]\n", Scope::User, "/c.toml line 2: there is no section [mounts]");
        fails("threads = 2\n", Scope::User, "/c.toml line 1: there is no section [threads]");
        fails("# x\nmount = 2\n", Scope::User, "/c.toml line 2: mount is a section");
    }

    #[test]
    fn bad_values_are_errors_that_name_file_and_line() {
        fails(
            "\n[safe]\nrepositories = 1\n",
            Scope::User,
            "/c.toml line 3: safe.repositories wants absolute",
        );
        fails("[safe]\nrepositories = ['x']\n", Scope::User, "/c.toml line 2: safe.repositories wants");
        fails(
            "[mount]\n\nthreads = 65\n",
            Scope::User,
            "/c.toml line 3: mount.threads wants a whole number from 1 to 64",
        );
        fails(
            "[mount]\nread_only = 'yes'\n",
            Scope::User,
            "/c.toml line 2: mount.read_only wants true or false",
        );
        fails("[service]\nidle = 1979-05-27\n", Scope::User, "/c.toml line 2: service.idle wants seconds");
        fails("[mount]\nthreads = 1\nthreads = 2\n", Scope::User, "/c.toml line 3: ");
        fails("[mount\n", Scope::User, "/c.toml line 1: ");
    }

    #[test]
    fn a_repository_sets_performance_read_only_and_store_only() {
        let allowed =
            "[mount]\nthreads = 2\nread_only = true\nattr_ttl = 0.5\n[store]\nlarge_blob = 0x1000\n";
        let lines = parse(Path::new("/c"), allowed, Scope::Repository).unwrap();
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [4, 3, 2, 6]);
        assert_eq!(lines[3].value, Value::Number(4096));
        for key in
            ["mount.allow_other", "mount.uid", "service.idle", "service.log_filter", "safe.repositories"]
        {
            let (section, name) = key.split_once('.').unwrap();
            let text = format!("[{section}]\n{name} = 0\n");
            fails(
                &text,
                Scope::Repository,
                &format!("/c.toml line 2: a repository's file may not set {key}"),
            );
        }
    }
}
