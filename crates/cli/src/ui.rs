//! All printing: documents on standard output, messages and progress on standard error.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use selvedge_mountpoint::escape_for_print;
use serde::Serialize;

use crate::error::{CliError, Result};

/// How many paths are named in warnings of one kind.
const MAX_NAMED: usize = 50;

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// One JSON document on standard output instead of text.
    pub json: bool,
    /// No messages but errors.
    pub quiet: bool,
}

impl Ui {
    /// Prints the result: `document` under `--json`, else `text` (which brings its own line ends).
    pub fn result(self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let output = if self.json {
            let json = serde_json::to_string(document).map_err(|error| {
                CliError::failed(format!("cannot write the result as JSON: {error}"))
                    .hint("try without --json")
            })?;
            json + "\n"
        } else {
            text()
        };
        write_out(output.as_bytes()).map(drop)
    }

    /// Prints bytes that are the same with and without `--json`.
    pub fn raw(self, bytes: &[u8]) -> Result<()> {
        write_out(bytes).map(drop)
    }

    /// As [`Self::raw`], for a part of the output; `false` if whoever reads it has seen enough.
    pub fn raw_part(self, bytes: &[u8]) -> Result<bool> {
        write_out(bytes)
    }

    /// Tells the user something that is no result. Under `--json` too: standard error is for people.
    pub fn note(self, message: impl AsRef<str>) {
        if !self.quiet {
            write_err(message.as_ref());
        }
    }

    /// Tells the user something that needs attention, `--quiet` or not.
    pub fn warn(self, message: impl AsRef<str>) {
        write_err(&format!("warning: {}", message.as_ref()));
    }

    /// Warns of each of `paths` below `base`, up to a number that people read, and counts the rest.
    pub fn warn_of(self, base: &Path, paths: &[PathBuf], what: &str) {
        for path in paths.iter().take(MAX_NAMED) {
            self.warn(format!("{} {what}", show(&base.join(path))));
        }
        if paths.len() > MAX_NAMED {
            self.warn(format!("the same of {} more", paths.len() - MAX_NAMED));
        }
    }

    /// Prints what a command failed with.
    pub fn error(self, error: &CliError) {
        if self.json {
            #[derive(Serialize)]
            struct Document<'a> {
                error: &'a CliError,
            }
            // An error consists of texts, which always have a JSON form.
            write_err(&serde_json::to_string(&Document { error }).unwrap_or_default());
            return;
        }
        write_err(&format!("error: {}\nhint: {}", error.message, error.hint));
    }

    /// A progress line on standard error when that is a terminal; otherwise nothing at all.
    pub fn progress(self, what: &'static str) -> Progress {
        if self.quiet || !std::io::stderr().is_terminal() {
            return Progress { bar: None };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a constant that indicatif parses; a progress line is not worth an error.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress { bar: Some(bar) }
    }
}

/// A running progress line; gone when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows how far it is: entries and bytes of content.
    pub fn set(&self, files: u64, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}, {}", counted(files, "file"), human_bytes(bytes)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Writes to standard output. A reader that went away (`selvedge list | head -1`) has what it wanted: no error, but
/// `false`.
fn write_out(bytes: &[u8]) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::io("cannot write to standard output", &error)
                .hint("send the output to where it can be written"))
        }
        written => Ok(written.is_ok()),
    }
}

/// Writes a line to standard error; if that fails there is nobody left to tell.
fn write_err(line: &str) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{line}");
}

/// `path` for people: escaped, so that a name cannot act on the terminal.
pub fn show(path: &Path) -> String {
    show_os(path.as_os_str())
}

/// `text` for people, escaped as [`show`] does.
pub fn show_os(text: &OsStr) -> String {
    escape_for_print(text.as_bytes())
}

/// So many of something whose plural ends in s, for people.
pub fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A size for people, in binary units.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = None;
    let mut tenths = u128::from(bytes) * 10;
    for name in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(name) => format!("{}.{} {name}", tenths / 10, tenths % 10),
    }
}

/// Rows as aligned columns under their headings; the last column is not padded.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&headings.map(str::to_owned)).chain(rows) {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column + 1 == N {
                text.push_str(cell);
            } else {
                text = format!("{text}{cell:width$}  ");
            }
        }
        while text.ends_with(' ') {
            text.pop();
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_act_on_the_terminal() {
        assert_eq!(show_os(OsStr::from_bytes(b"a\x1b[2J\xffz")), "a\\u{1b}[2J\\xffz");
    }

    #[test]
    fn one_of_them_is_not_many() {
        assert_eq!([0, 1, 2].map(|number| counted(number, "file")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn sizes_are_rounded_to_tenths() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [["a".to_owned(), "b".to_owned()], ["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(["X", "Y"], &rows), "X     Y\na     b\nlong  c\n");
    }
}
