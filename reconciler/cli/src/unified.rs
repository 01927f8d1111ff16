//! Two texts, line by line, as `diff -u` shows them.

use similar::{ChangeTag, TextDiff};

use crate::output::{self, BAD_LINE, BOLD, FAINT, GOOD, paint};

/// Lines that stay the same and are shown around those that change.
const CONTEXT: usize = 3;

/// The difference with ANSI colours; empty where there is none.
pub(crate) fn unified(before: &str, after: &str, from: &str, to: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut out = String::new();
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        if out.is_empty() {
            out.push_str(&format!(
                "{}\n{}\n",
                paint(BOLD, &format!("--- {}", output::clean(from))),
                paint(BOLD, &format!("+++ {}", output::clean(to)))
            ));
        }
        out.push_str(&format!("{}\n", paint(FAINT, &hunk.header().to_string())));
        for change in hunk.iter_changes() {
            let (sign, style) = match change.tag() {
                ChangeTag::Equal => (' ', None),
                ChangeTag::Delete => ('-', Some(BAD_LINE)),
                ChangeTag::Insert => ('+', Some(GOOD)),
            };
            let line = format!(
                "{sign}{}",
                output::clean(change.value().trim_end_matches(['\n', '\r']))
            );
            out.push_str(&style.map_or(line.clone(), |style| paint(style, &line)));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown_with_a_little_around_it() {
        let before: String = (0..20).map(|i| format!("{i}\n")).collect();
        let plain = |after: &str| {
            let text = unified(&before, after, "old", "new");
            anstream::adapter::strip_str(&text).to_string()
        };
        assert_eq!(plain(&before), "");
        assert_eq!(
            plain(&before.replace("\n10\n", "\nten\n")),
            "--- old\n+++ new\n@@ -8,7 +8,7 @@\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n"
        );
    }
}
