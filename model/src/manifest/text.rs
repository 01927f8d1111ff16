//! From bytes to text with lines, and from the parser's markers to places.

use crate::diagnostic::{Code, Diagnostic, Place};

/// Largest manifest file, in bytes. A slice of 100,000 slivers fits; ten times that would make every push slow.
pub const FILE_LEN_MAX: u64 = 4 << 20;

/// Where something begins and ends: lines from 1, columns from 0, in characters, as the parser counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) end_line: u32,
    pub(crate) end_column: u32,
}

/// A file's text with the beginnings of its lines.
#[derive(Clone, Debug)]
pub(crate) struct SourceText {
    path: String,
    text: String,
    line_starts: Vec<usize>,
    ascii: bool,
}

/// Characters of a long line that are kept around a span.
const EXCERPT_BEFORE: usize = 60;
const EXCERPT_AFTER: usize = 140;

impl SourceText {
    /// Takes the bytes of a file as text.
    ///
    /// # Errors
    /// One diagnostic if they are too many, not UTF-8, or hold characters YAML forbids (YAML 1.2.2 §5.1).
    pub(crate) fn new(path: &str, bytes: &[u8]) -> Result<Self, Box<Diagnostic>> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if len > FILE_LEN_MAX {
            return Err(Box::new(too_large(path, len)));
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(error) => {
                let source = Self::of(path, String::from_utf8_lossy(bytes).into_owned());
                let place = source.place_of_byte(error.valid_up_to());
                return Err(Box::new(
                    Diagnostic::error(Code::NotText, place, "the file is not UTF-8 text")
                        .label(format!("byte 0x{:02x}", bytes[error.valid_up_to()])),
                ));
            }
        };
        let source = Self::of(path, text.to_owned());
        match text.char_indices().find(|(_, c)| forbidden(*c)) {
            None => Ok(source),
            Some((at, c)) => Err(Box::new(
                Diagnostic::error(
                    Code::NotText,
                    source.place_of_byte(at),
                    format!("the file holds the control character U+{:04X}", u32::from(c)),
                )
                .help("manifests are plain text; write such a character as an escape in double quotes"),
            )),
        }
    }

    fn of(path: &str, text: String) -> Self {
        let bytes = text.as_bytes();
        let after_break = (1..=bytes.len()).filter(|&i| match bytes[i - 1] {
            b'\n' => true,
            b'\r' => bytes.get(i) != Some(&b'\n'),
            _ => false,
        });
        let line_starts = std::iter::once(0).chain(after_break).collect();
        Self {
            path: path.to_owned(),
            ascii: text.is_ascii(),
            text,
            line_starts,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// How many lines there are.
    pub(crate) fn lines(&self) -> u32 {
        u32::try_from(self.line_starts.len()).unwrap_or(u32::MAX)
    }

    /// A line without its break; empty past the end.
    pub(crate) fn line(&self, line: u32) -> &str {
        let index = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(&start) = self.line_starts.get(index) else {
            return "";
        };
        let end = self
            .line_starts
            .get(index + 1)
            .copied()
            .unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    /// The byte at which a line begins; the end of the text past the last.
    pub(crate) fn line_start(&self, line: u32) -> usize {
        let index = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        self.line_starts.get(index).copied().unwrap_or(self.text.len())
    }

    /// The place of a span, with the value's address in its document.
    pub(crate) fn place(&self, span: Span, value: String) -> Place {
        let line = self.line(span.line);
        let start = usize::try_from(span.column).unwrap_or(usize::MAX);
        // Lines may be as long as the file. Only what is near the span is looked at character by character, and ASCII
        // is not walked through to get there.
        let skipped = |chars: usize| match self.ascii {
            true => &line[chars.min(line.len())..],
            false => line.char_indices().nth(chars).map_or("", |(at, _)| &line[at..]),
        };
        let rest = skipped(start);
        let start = if rest.is_empty() {
            start.min(line.chars().count())
        } else {
            start
        };
        let len = match span.end_line == span.line {
            true => usize::try_from(span.end_column)
                .unwrap_or(usize::MAX)
                .saturating_sub(start),
            false => usize::MAX,
        };
        let from = start.saturating_sub(EXCERPT_BEFORE);
        let before: String = skipped(from).chars().take(start - from).collect();
        let after: String = rest.chars().take(EXCERPT_AFTER).collect();
        let cut = if from > 0 { "…" } else { "" };
        let excerpt = format!("{cut}{before}{after}");
        let begin = cut.len() + before.len();
        let marked = begin..begin + after.chars().take(len.max(1)).map(char::len_utf8).sum::<usize>();
        let usize_of = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        Place {
            path: self.path.clone(),
            line: usize_of(span.line),
            column: start + 1,
            end_line: usize_of(span.end_line),
            end_column: usize_of(span.end_column).saturating_add(1),
            value,
            marked,
            excerpt,
        }
    }

    /// The place of one character by its byte offset.
    fn place_of_byte(&self, at: usize) -> Place {
        let index = self.line_starts.partition_point(|start| *start <= at) - 1;
        let column = self.text[self.line_starts[index]..at].chars().count();
        let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let column = u32::try_from(column).unwrap_or(u32::MAX);
        self.place(
            Span {
                line,
                column,
                end_line: line,
                end_column: column.saturating_add(1),
            },
            String::new(),
        )
    }
}

/// The diagnostic for a file that is too large to be looked at.
pub(crate) fn too_large(path: &str, len: u64) -> Diagnostic {
    Diagnostic::error(
        Code::TooLarge,
        Place::file(path),
        format!("a manifest of {len} bytes is more than the {FILE_LEN_MAX} bytes allowed"),
    )
    .help("every *.yaml below the fleet's root is read as a manifest; split this one, or give it another ending if it is a file for guests")
}

fn forbidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}') || matches!(c, '\u{fffe}' | '\u{ffff}')
}
