//! Names as git prints them.

use std::fmt::Write as _;

/// The name as it is, or in double quotes with escapes if anything in it needs them.
pub(super) fn quoted(name: &[u8]) -> String {
    quoted_with("", name)
}

/// As [`quoted`], with `prefix` before the name and inside the quotes.
pub(super) fn quoted_with(prefix: &str, name: &[u8]) -> String {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    let mut text = String::with_capacity(prefix.len() + name.len() + 2);
    if name.iter().all(|&byte| plain(byte)) {
        text.push_str(prefix);
        text.extend(name.iter().map(|&byte| char::from(byte)));
        return text;
    }
    text.push('"');
    text.push_str(prefix);
    for &byte in name {
        match byte {
            0x07 => text.push_str("\\a"),
            0x08 => text.push_str("\\b"),
            b'\t' => text.push_str("\\t"),
            b'\n' => text.push_str("\\n"),
            0x0b => text.push_str("\\v"),
            0x0c => text.push_str("\\f"),
            b'\r' => text.push_str("\\r"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            byte if plain(byte) => text.push(char::from(byte)),
            byte => {
                // A string takes everything.
                let _ = write!(text, "\\{byte:03o}");
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_odd_names_are_quoted() {
        assert_eq!(quoted_with("a/", b"plain name"), "a/plain name");
        assert_eq!(quoted_with("a/", b"tab\there"), "\"a/tab\\there\"");
        assert_eq!(quoted("ü".as_bytes()), "\"\\303\\274\"");
        assert_eq!(quoted(b"\"\\\x01"), "\"\\\"\\\\\\001\"");
    }
}
