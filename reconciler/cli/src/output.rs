//! What goes to standard output: text, tables, JSON and YAML.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// Form of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// For programs; carries a `formatVersion`.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Form of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// For people.
    #[default]
    Text,
    /// For programs; carries a `formatVersion`.
    Json,
    /// The graph of its actions, for Graphviz.
    Dot,
    /// The graph of its actions, for Mermaid.
    Mermaid,
    /// With --fleet: a table, as a comment on a change.
    Markdown,
}

/// Form of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    /// For people.
    #[default]
    Text,
    /// For programs; carries a `formatVersion`.
    Json,
}

/// Writes text to standard output, as it is.
pub(crate) fn text(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes text with ANSI colours to standard output; the codes are taken out where nobody wants them.
pub(crate) fn styled(text: &str) -> Outcome<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a line to standard error. That nobody reads it is no failure.
pub(crate) fn note(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Writes a value as JSON, for programs.
pub(crate) fn json(value: &impl Serialize) -> Outcome<()> {
    let value = serde_json::to_string_pretty(value).map_err(|error| Failure::doing("write JSON", &error))?;
    text(&(value + "\n"))
}

/// Writes a value as YAML, for programs and for reading.
pub(crate) fn yaml(value: &impl Serialize) -> Outcome<()> {
    let yaml = serde_yaml::to_string(value).map_err(|error| Failure::doing("write YAML", &error))?;
    text(&format!("{}\n", yaml.trim_end()))
}

/// Writes a listing in the form that was asked for. `rows` is for people, `value` for programs.
pub(crate) fn listing(format: Format, rows: &Table, value: &Value) -> Outcome<()> {
    match format {
        Format::Table | Format::Wide => styled(&rows.render(format, terminal_columns())),
        Format::Json => json(value),
        Format::Yaml => yaml(value),
    }
}

/// Columns for people, with the wide ones last.
pub(crate) struct Table {
    head: Vec<&'static str>,
    narrow: usize,
    rows: Vec<Vec<String>>,
    empty: &'static str,
}

impl Table {
    /// A table of which the first `narrow` columns are always shown; `empty` is said where it has no rows.
    pub(crate) fn new(head: &[&'static str], narrow: usize, empty: &'static str) -> Self {
        Self {
            head: head.to_vec(),
            narrow,
            rows: Vec::new(),
            empty,
        }
    }

    /// Adds a row, one text for each column.
    pub(crate) fn row(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.head.len());
        self.rows.push(row);
    }

    /// The table as text. Where it is wider than `room`, what is last in a row goes on below itself.
    pub(crate) fn render(&self, format: Format, room: Option<usize>) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        let columns = if format == Format::Wide {
            self.head.len()
        } else {
            self.narrow
        };
        let head = self
            .head
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = std::iter::once(&head)
            .chain(&self.rows)
            .map(|row| {
                row.iter()
                    .take(columns)
                    .map(|cell| clean(cell).replace('\n', " "))
                    .collect()
            })
            .collect();
        let width = |column: usize| {
            rows.iter()
                .map(|row: &Vec<String>| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let before: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
        let last = room.map(|room| room.saturating_sub(before).max(LAST_COLUMN_MIN));
        let line = |row: &Vec<String>| {
            let (end, cells) = row
                .split_last()
                .map_or(("", &[][..]), |(end, cells)| (end.as_str(), cells));
            let cells = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}  "));
            let ends = match last {
                Some(last) if end.chars().count() > last => folded(end, last),
                Some(_) | None => vec![end.to_owned()],
            };
            let below = format!("\n{:before$}", "");
            let text = format!("{}{}", cells.collect::<String>(), ends.join(&below));
            text.trim_end().to_owned()
        };
        let mut lines = rows.iter().map(line);
        let head = lines.next().unwrap_or_default();
        let mut out = format!("{}\n", paint(BOLD, &head));
        for line in lines {
            out.push_str(&line);
            out.push('\n');
        }
        out
    }
}

/// Columns that the last cell of a row gets, however narrow the terminal.
const LAST_COLUMN_MIN: usize = 24;

/// Columns of the terminal that standard output is; `None` where it is none.
pub(crate) fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Headings.
pub(crate) const BOLD: Style = Style::new().bold();
/// Things that are as they should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Things that work with less than they could.
pub(crate) const FAIR: Style = AnsiColor::Yellow.on_default();
/// Things that do not work.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Lines that go.
pub(crate) const BAD_LINE: Style = AnsiColor::Red.on_default();
/// Asides.
pub(crate) const FAINT: Style = Style::new().dimmed();

/// `label: text`, broken into lines that a terminal, or the answer to a push, has room for. What comes after a line
/// break in `text` is a command, and stays as it is.
pub(crate) fn labelled(style: Style, label: &str, text: &str) -> String {
    let indent = label.len() + 2;
    let text = clean(text);
    let (words, commands) = text.split_once('\n').unwrap_or((&text, ""));
    let mut lines = folded(words, LINE_MAX - indent);
    lines.extend(commands.lines().map(|command| format!("  {command}")));
    format!(
        "{}: {}",
        paint(style, label),
        lines.join(&format!("\n{:indent$}", ""))
    )
}

/// Words in lines of at most `columns`, but for a word that is longer by itself.
pub(crate) fn folded(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Columns of running text: what fits behind git's `remote: ` on a common terminal.
const LINE_MAX: usize = 92;

/// Text in a style.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{}{text}{}", style.render(), style.render_reset())
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 || tenths >= 1000 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A number with its noun.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{n} {many}")
    }
}

/// A span of time for people, with one unit.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        7200..=172_799 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

/// How long ago something was.
pub(crate) fn ago(then_ms: u64, now_ms: u64) -> String {
    format!("{} ago", span(now_ms.saturating_sub(then_ms)))
}

/// A moment in this machine's time zone.
pub(crate) fn moment(ms: u64) -> String {
    let moment = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(
        || ms.to_string(),
        |moment| {
            moment
                .to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}

/// The clock of this machine, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Text that came from elsewhere must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        let check = |n, expect: &str| assert_eq!(bytes(n), expect);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1536, "1.5 KiB");
        check(150 << 20, "150 MiB");
        check(u64::MAX, "16777215 TiB");
        assert_eq!(
            [span(999), span(119_000), span(120_000), span(7_200_000)],
            ["0 s", "119 s", "2 min", "2 h"]
        );
    }

    #[test]
    fn what_is_last_in_a_row_goes_on_below_itself() {
        let mut table = Table::new(&["NAME", "WHY"], 2, "nothing");
        table.row(vec![
            "web/0".into(),
            "needs 512 MiB, and 256 MiB are free for it".into(),
        ]);
        let plain = |room| anstream::adapter::strip_str(&table.render(Format::Table, room)).to_string();
        let folded = "NAME   WHY\nweb/0  needs 512 MiB, and 256\n       MiB are free for it\n";
        assert_eq!(plain(Some(32)), folded);
        assert_eq!(plain(Some(80)).lines().count(), 2);
    }

    #[test]
    fn a_table_lines_up_and_cannot_be_made_to_steer_a_terminal() {
        let mut table = Table::new(&["NAME", "STATE", "MORE"], 2, "nothing");
        assert_eq!(table.render(Format::Table, None), "nothing\n");
        table.row(vec!["web/0".into(), "ok".into(), "x".into()]);
        table.row(vec!["a\u{1b}[2J".into(), "long text".into(), "y".into()]);
        let plain = |room| anstream::adapter::strip_str(&table.render(Format::Table, room)).to_string();
        assert_eq!(plain(None), "NAME   STATE\nweb/0  ok\na\u{fffd}[2J  long text\n");
    }
}
