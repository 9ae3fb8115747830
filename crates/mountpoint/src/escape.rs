//! Text of the mount table: the kernel's escapes read, foreign text made printable.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Undoes the kernel's octal escapes (`\040` for a space). A backslash that begins no such escape stays.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let Some(byte) = escaped_byte(rest) {
            plain.push(byte);
            rest = &rest[4..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

fn escaped_byte(text: &[u8]) -> Option<u8> {
    let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = text else { return None };
    Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
}

/// Text from elsewhere as it may be shown on a terminal: control characters, characters that change the
/// direction of text and bytes that are not UTF-8 appear as escapes, and so does the backslash, so that the
/// result is unambiguous.
pub fn escape_for_print(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                shown.push_str("\\\\");
            } else if character.is_control() || is_invisible(character) {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
            } else {
                shown.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// A path as messages show it: as [`escape_for_print`] has it, without quotes.
pub fn shown(path: &Path) -> String {
    escape_for_print(path.as_os_str().as_bytes())
}

/// Characters that show nothing themselves and change how the text around them looks.
const fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' |
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_undone_and_nothing_else() {
        assert_eq!(unescape(br"/a\040b\011\012\134c"), b"/a b\t\n\\c");
        assert_eq!(unescape(br"\04 \0 \ \999 \400"), br"\04 \0 \ \999 \400");
        assert_eq!(unescape(br"\377"), b"\xff");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        assert_eq!(escape_for_print(b"a\x1b[31m\xff\\\n"), r"a\u{1b}[31m\xff\\\u{a}");
        assert_eq!(escape_for_print("x\u{202e}y\u{85}ü".as_bytes()), "x\\u{202e}y\\u{85}ü");
    }
}
