//! What settings may be, and how they are read from files and from words.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::ui::show;

/// What a setting may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Yes or no.
    Switch,
    /// A whole number.
    Number {
        /// At least this.
        least: u64,
        /// At most this.
        most: u64,
    },
    /// Seconds, with a fraction if need be.
    Seconds {
        /// At least so many milliseconds.
        least: u64,
        /// At most so many milliseconds.
        most: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A filter of log lines.
    Filter,
    /// Absolute paths of directories.
    Directories,
}

/// What a setting is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Yes or no.
    Switch(bool),
    /// A whole number.
    Number(u64),
    /// A time.
    Seconds(Duration),
    /// A word.
    Word(String),
    /// Directories.
    Directories(Vec<PathBuf>),
    /// Nobody has set it, and it is not in force.
    Unset,
}

/// A value as a file or a command line has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Written {
    Switch(bool),
    Number(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Self>),
    /// A date, a table: nothing that a setting could be.
    Other,
}

impl Kind {
    /// What it may be, for people.
    pub fn describe(self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Number { least, most } => format!("a whole number from {least} to {most}"),
            Self::Seconds { least, most } => {
                format!("seconds from {} to {}", seconds(least), seconds(most))
            }
            Self::Choice(words) => words.join(", "),
            Self::Filter => "a filter of log lines".to_owned(),
            Self::Directories => "absolute paths".to_owned(),
        }
    }

    /// The value that a file means; what it should be otherwise.
    pub(super) fn accept(self, written: &Written) -> Result<Value, String> {
        let value = match (self, written) {
            (Self::Switch, Written::Switch(on)) => Some(Value::Switch(*on)),
            (Self::Number { least, most }, Written::Number(number)) => {
                u64::try_from(*number).ok().filter(|n| (least..=most).contains(n)).map(Value::Number)
            }
            (Self::Seconds { least, most }, Written::Number(number)) => {
                let millis = u64::try_from(*number).ok().and_then(|seconds| seconds.checked_mul(1000));
                millis
                    .filter(|n| (least..=most).contains(n))
                    .map(|n| Value::Seconds(Duration::from_millis(n)))
            }
            (Self::Seconds { least, most }, Written::Fraction(seconds)) => {
                let time = Duration::try_from_secs_f64(*seconds).ok();
                let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
                time.filter(|time| (least..=most).contains(time)).map(Value::Seconds)
            }
            (Self::Choice(words), Written::Text(text)) => {
                words.contains(&text.as_str()).then(|| Value::Word(text.clone()))
            }
            (Self::Filter, Written::Text(text)) => {
                EnvFilter::try_new(text).ok().map(|_| Value::Word(text.clone()))
            }
            (Self::Directories, Written::List(items)) => directories(items),
            _ => None,
        };
        value.ok_or_else(|| self.describe())
    }

    /// The value that a word on a command line or in the environment means.
    pub(super) fn read(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let written = match self {
            Self::Switch => match text {
                "true" | "yes" | "on" | "1" => Written::Switch(true),
                "false" | "no" | "off" | "0" => Written::Switch(false),
                _ => Written::Other,
            },
            Self::Number { .. } => text.parse().map_or(Written::Other, Written::Number),
            Self::Seconds { .. } => text.parse().map_or(Written::Other, Written::Fraction),
            Self::Choice(_) | Self::Filter => Written::Text(text.to_owned()),
            Self::Directories => {
                let items = text.split(':').filter(|item| !item.is_empty());
                Written::List(items.map(|item| Written::Text(item.to_owned())).collect())
            }
        };
        self.accept(&written)
    }
}

fn directories(items: &[Written]) -> Option<Value> {
    let path = |item: &Written| match item {
        Written::Text(text) => Some(PathBuf::from(text)).filter(|path| path.is_absolute()),
        _ => None,
    };
    items.iter().map(path).collect::<Option<Vec<_>>>().map(Value::Directories)
}

/// Milliseconds as seconds, with as few digits as say it.
fn seconds(millis: u64) -> String {
    Duration::from_millis(millis).as_secs_f64().to_string()
}

impl Value {
    /// The value as people read it.
    pub fn show(&self) -> String {
        match self {
            Self::Switch(on) => on.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Seconds(time) => time.as_secs_f64().to_string(),
            Self::Word(word) => word.clone(),
            Self::Directories(paths) if paths.is_empty() => "-".to_owned(),
            Self::Directories(paths) => paths.iter().map(|path| show(path)).collect::<Vec<_>>().join(", "),
            Self::Unset => "-".to_owned(),
        }
    }

    /// The value as the settings' structures are read from; nothing if it is not in force.
    pub(super) fn to_toml(&self) -> Option<toml::Value> {
        Some(match self {
            Self::Switch(on) => toml::Value::Boolean(*on),
            // No setting has room for more.
            Self::Number(number) => toml::Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX)),
            Self::Seconds(time) => toml::Value::Float(time.as_secs_f64()),
            Self::Word(word) => toml::Value::String(word.clone()),
            Self::Directories(paths) => {
                let text = |path: &PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
                toml::Value::Array(paths.iter().map(text).collect())
            }
            Self::Unset => return None,
        })
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Switch(on) => serializer.serialize_bool(*on),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Seconds(time) if time.subsec_nanos() == 0 => serializer.serialize_u64(time.as_secs()),
            Self::Seconds(time) => serializer.serialize_f64(time.as_secs_f64()),
            Self::Word(word) => serializer.serialize_str(word),
            Self::Directories(paths) => paths.serialize(serializer),
            Self::Unset => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_fractions_and_bounds() {
        let kind = Kind::Seconds { least: 50, most: 10_000 };
        assert_eq!(kind.read("0.25").unwrap(), Value::Seconds(Duration::from_millis(250)));
        assert_eq!(kind.accept(&Written::Number(2)).unwrap(), Value::Seconds(Duration::from_secs(2)));
        for bad in ["0", "-1", "10.5", "NaN", "inf", "soon", ""] {
            assert_eq!(kind.read(bad).unwrap_err(), "seconds from 0.05 to 10", "{bad}");
        }
        assert!(kind.accept(&Written::Number(i128::MAX)).is_err());
    }

    #[test]
    fn a_relative_directory_is_none() {
        assert!(Kind::Directories.read("/a:b").is_err());
        let both = Value::Directories(vec!["/a".into(), "/b".into()]);
        assert_eq!(Kind::Directories.read("/a:/b").unwrap(), both);
    }
}
