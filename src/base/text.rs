//! Prepares text from outside for log lines and terminals.

/// Maximum length of a server's message in a log line, in characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// Escapes every character that could move a cursor, end a line or change the writing direction.
pub(crate) fn escape_control(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_bidirectional(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Escapes like [`escape_control`], except for colours, and for the end of a line if it is `multiline`.
pub(crate) fn escape_styled(text: &str, multiline: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\u{1b}' => colour_length(rest).unwrap_or(0),
            '\n' if multiline => 1,
            c if c.is_control() || is_bidirectional(c) => 0,
            c => c.len_utf8(),
        };
        match length {
            0 => {
                shown.extend(c.escape_unicode());
                rest = &rest[c.len_utf8()..];
            }
            length => {
                shown.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
    }
    shown
}

/// Returns the length of the colour sequence (`ESC [ … m`) that the text begins with, in bytes.
fn colour_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some("\u{1b}[".len() + end + 1)
}

/// Returns a server's message on one line, truncated to the maximum length for a log line.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(MAX_MESSAGE_CHARS).collect();
    escape_control(&line)
}

/// Formats bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_of_two_digits_each() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa5, 0xff]), "000fa5ff");
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(escape_control("a\u{1b}[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}d é");
        let styled = "\u{1b}[1;31mred\u{1b}[0m\n\u{1b}[2J\r\u{1b}";
        let shown = "\u{1b}[1;31mred\u{1b}[0m\n\\u{1b}[2J\\u{d}\\u{1b}";
        assert_eq!(escape_styled(styled, true), shown);
        assert_eq!(escape_styled("é\n", false), "é\\u{a}");
        assert_eq!(one_line(" a\n  b\t"), "a b");
        assert_eq!(one_line(&"x".repeat(1_000)).len(), MAX_MESSAGE_CHARS);
    }
}
