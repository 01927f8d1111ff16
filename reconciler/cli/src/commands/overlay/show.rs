//! Looking: ls, cat, diff, du.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use cowfs::attr::FileType;
use cowfs::inspect::{Change, How, InspectError, Listed};
use serde_json::{Value, json};

use super::find::Found;
use super::{Cat, Diff, Du, Ls};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, BAD_LINE, BOLD, FAINT, FAIR, GOOD, TextFormat, bytes, paint};
use crate::unified::unified;

/// Largest file that is compared line by line.
const LINES_MAX: u64 = 8 << 20;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// A path as the layer has it: without slashes around it.
fn inner(path: &Path) -> Vec<u8> {
    let names = path.as_os_str().as_bytes().split(|&byte| byte == b'/');
    let names: Vec<&[u8]> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    names.join(&b'/')
}

/// A path for people.
fn shown(path: &[u8]) -> String {
    output::clean(&format!("/{}", String::from_utf8_lossy(path))).replace('\n', "\u{fffd}")
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn failed(error: InspectError) -> Failure {
    Failure::doing("look into the layer", &error)
}

/// Says on standard error that less is known than could be.
fn say_alone(found: &Found) {
    if let Some(why) = &found.alone {
        output::note(&output::labelled(
            FAIR,
            "note",
            &format!("{why}; owners and modes are not compared, and what replaced something counts as added"),
        ));
    }
}

pub(super) fn cat(args: &Cat) -> Outcome {
    let found = args.target.find()?;
    let path = inner(&args.path);
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    let mut out = std::io::stdout().lock();
    loop {
        let read = found.inspection.read(&path, at, &mut buffer);
        let count = read.map_err(|error| {
            let alone = matches!(error, InspectError::NeedsBelow { .. }).then(|| found.alone.clone());
            failed(error).hint(alone.flatten())
        })?;
        out.write_all(&buffer[..count])?;
        at += u64::try_from(count).unwrap_or(u64::MAX);
        if count < buffer.len() {
            out.flush()?;
            return Ok(Exit::Done);
        }
    }
}

pub(super) fn ls(args: &Ls) -> Outcome {
    let found = args.target.find()?;
    say_alone(&found);
    let path = inner(&args.path);
    let listed = found.inspection.list(&path, args.all).map_err(failed)?;
    let changes = found.inspection.changes().map_err(failed)?;
    let marks = marks(&changes, &path);
    if args.output == TextFormat::Json {
        let entries: Vec<Value> = listed
            .iter()
            .map(|entry| {
                let mut value = json!({
                    "name": String::from_utf8_lossy(&entry.name),
                    "type": type_word(entry.attr.file_type),
                    "mode": format!("{:04o}", entry.attr.mode),
                    "uid": entry.attr.uid,
                    "gid": entry.attr.gid,
                    "size": entry.attr.size,
                    "mtime": entry.attr.mtime.seconds,
                    "change": marks.get(&entry.name).map(|mark| mark.to_string()),
                });
                if let Some(target) = &entry.target {
                    value["target"] = json!(String::from_utf8_lossy(target));
                }
                value
            })
            .collect();
        let removed: Vec<_> = removed(&listed, &marks)
            .map(|name| String::from_utf8_lossy(name))
            .collect();
        let value =
            json!({ "formatVersion": 1, "path": shown(&path), "entries": entries, "removed": removed });
        return output::json(&value).map(|()| Exit::Done);
    }
    output::styled(&ls_text(&listed, &marks))?;
    Ok(Exit::Done)
}

fn removed<'a>(listed: &'a [Listed], marks: &'a BTreeMap<Vec<u8>, char>) -> impl Iterator<Item = &'a [u8]> {
    let gone = marks
        .iter()
        .filter(|(name, mark)| **mark == 'D' && !listed.iter().any(|entry| entry.name == **name));
    gone.map(|(name, _)| name.as_slice())
}

/// What happened to each name in a directory.
fn marks(changes: &[Change], dir: &[u8]) -> BTreeMap<Vec<u8>, char> {
    let mut marks = BTreeMap::new();
    for change in changes {
        let below = match change.path.strip_prefix(dir) {
            Some(rest) if dir.is_empty() => rest,
            Some([b'/', rest @ ..]) => rest,
            _ => continue,
        };
        let name = below.split(|&byte| byte == b'/').next().unwrap_or_default();
        if name.len() < below.len() {
            marks.entry(name.to_vec()).or_insert('.');
        } else if !name.is_empty() {
            marks.insert(name.to_vec(), letter(&change.how));
        }
    }
    marks
}

fn letter(how: &How) -> char {
    match how {
        How::Added => 'A',
        How::Linked { .. } => 'L',
        How::Changed => 'M',
        How::Replaced { .. } => 'T',
        How::Renamed { .. } => 'R',
        How::Removed => 'D',
    }
}

fn ls_text(listed: &[Listed], marks: &BTreeMap<Vec<u8>, char>) -> String {
    let mut rows = Vec::new();
    for entry in listed {
        let attr = &entry.attr;
        let mark = marks.get(&entry.name).copied().unwrap_or(' ');
        let mut name = one_line(&entry.name);
        if let Some(target) = &entry.target {
            name.push_str(&format!(" -> {}", one_line(target)));
        } else if attr.file_type == FileType::Directory {
            name.push('/');
        }
        let size = match attr.file_type {
            FileType::Directory => "-".to_owned(),
            FileType::Character | FileType::Block => format!("{},{}", attr.device.major, attr.device.minor),
            FileType::Regular | FileType::Symlink | FileType::Fifo | FileType::Socket => bytes(attr.size),
        };
        let ms = u64::try_from(attr.mtime.seconds)
            .unwrap_or(0)
            .saturating_mul(1000);
        rows.push((
            mark,
            [
                mode_string(attr.file_type, attr.mode),
                format!("{}:{}", attr.uid, attr.gid),
                size,
                output::moment(ms),
            ],
            name,
        ));
    }
    for name in removed(listed, marks) {
        rows.push(('D', [const { String::new() }; 4], one_line(name)));
    }
    if rows.is_empty() {
        return "nothing here has changed\n".to_owned();
    }
    rows.sort_by(|a, b| a.2.cmp(&b.2));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row.1[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2), width(3)];
    let mut out = String::new();
    for (mark, [mode, owner, size, time], name) in &rows {
        let style = match mark {
            'A' => GOOD,
            'D' => BAD_LINE,
            '.' | ' ' => FAINT,
            _ => FAIR,
        };
        let name = if *mark == 'D' {
            paint(BAD_LINE, name)
        } else {
            name.clone()
        };
        out.push_str(&format!(
            "{}  {mode:<mode_width$}  {owner:<owner_width$}  {size:>size_width$}  {time:<time_width$}  {name}\n",
            paint(style, &mark.to_string()),
            mode_width = widths[0],
            owner_width = widths[1],
            size_width = widths[2],
            time_width = widths[3],
        ));
    }
    out
}

fn one_line(text: &[u8]) -> String {
    output::clean(&String::from_utf8_lossy(text)).replace('\n', "\u{fffd}")
}

/// As ls(1) writes it.
fn mode_string(file_type: FileType, mode: u32) -> String {
    let kind = match file_type {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Block => 'b',
        FileType::Character => 'c',
        FileType::Socket => 's',
        FileType::Fifo => 'p',
    };
    let mut text = String::from(kind);
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => set.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

pub(super) fn diff(args: &Diff) -> Outcome {
    let found = args.target.find()?;
    let within = args.path.as_deref().map(inner).unwrap_or_default();
    let mut changes = found.inspection.changes().map_err(failed)?;
    let is_within = |path: &[u8]| {
        within.is_empty()
            || path == within
            || path
                .strip_prefix(&within[..])
                .is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    changes.retain(|change| is_within(&change.path));
    if args.output == TextFormat::Json {
        let value = json!({
            "formatVersion": 1,
            "layer": found.path.display().to_string(),
            "epoch": found.inspection.epoch(),
            "compared": found.inspection.knows_below(),
            "changes": changes.iter().map(change_value).collect::<Vec<_>>(),
        });
        return output::json(&value).map(|()| Exit::Done);
    }
    say_alone(&found);
    let lines = match changes.as_slice() {
        [change] if change.path == within && change.content => lines(&found, change)?,
        _ => None,
    };
    output::styled(&lines.unwrap_or_else(|| changes_text(&changes)))?;
    Ok(Exit::Done)
}

/// A changed file line by line, where it is text and not too long.
fn lines(found: &Found, change: &Change) -> Outcome<Option<String>> {
    if change.file_type != Some(FileType::Regular) || change.size.1.is_none_or(|size| size > LINES_MAX) {
        return Ok(None);
    }
    let from = match &change.how {
        How::Renamed { from } => from,
        _ => &change.path,
    };
    let Ok(Some(before)) = found.inspection.read_below(from, LINES_MAX) else {
        return Ok(None);
    };
    let mut after = vec![0; usize::try_from(change.size.1.unwrap_or(0)).unwrap_or(0)];
    let count = found
        .inspection
        .read(&change.path, 0, &mut after)
        .map_err(failed)?;
    after.truncate(count);
    let (Ok(before), Ok(after)) = (String::from_utf8(before), String::from_utf8(after)) else {
        return Ok(None);
    };
    if before.contains('\0') || after.contains('\0') {
        return Ok(None);
    }
    let text = unified(&before, &after, &shown(from), &shown(&change.path));
    Ok((!text.is_empty()).then_some(text))
}

pub(super) fn changes_text(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing has changed\n".to_owned();
    }
    let paths: Vec<String> = changes.iter().map(|change| shown(&change.path)).collect();
    // One long path must not push the words of all others off the screen.
    let width = paths
        .iter()
        .map(|path| path.chars().count())
        .filter(|len| *len <= 60)
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (change, path) in changes.iter().zip(&paths) {
        let word = how_word(&change.how);
        *counts.entry(word).or_default() += 1;
        let style = match change.how {
            How::Added => GOOD,
            How::Removed => BAD_LINE,
            How::Linked { .. } | How::Changed | How::Replaced { .. } | How::Renamed { .. } => FAIR,
        };
        let what = what(change);
        let fill = if what.is_empty() { 0 } else { width };
        let line = format!("{}  {path:<fill$}  {what}", paint(style, &format!("{word:<8}")));
        out.push_str(line.trim_end());
        out.push('\n');
    }
    let order = ["added", "changed", "replaced", "renamed", "linked", "removed"];
    let counted = order
        .iter()
        .filter_map(|word| Some(format!("{} {word}", counts.get(word)?)));
    let total = output::count(changes.len(), "change", "changes");
    let counted: Vec<String> = counted.collect();
    out.push_str(&paint(BOLD, &format!("\n{total}: {}\n", counted.join(", "))));
    out
}

fn how_word(how: &How) -> &'static str {
    match how {
        How::Added => "added",
        How::Linked { .. } => "linked",
        How::Changed => "changed",
        How::Replaced { .. } => "replaced",
        How::Renamed { .. } => "renamed",
        How::Removed => "removed",
    }
}

/// What there is to say of a change beside its path.
fn what(change: &Change) -> String {
    let mut parts = Vec::new();
    let kind = change.file_type.map_or("", type_word);
    match &change.how {
        How::Added => match (change.file_type, change.size.1) {
            (Some(FileType::Regular), Some(size)) => parts.push(bytes(size)),
            _ => parts.push(kind.to_owned()),
        },
        How::Linked { to } => parts.push(format!("to {}", shown(to))),
        How::Replaced { was } => parts.push(format!("{kind}, was {}", type_word(*was))),
        How::Renamed { from } => parts.push(format!("from {}", shown(from))),
        How::Removed if change.file_type == Some(FileType::Regular) => {}
        How::Removed => parts.push(kind.to_owned()),
        How::Changed => {}
    }
    if change.content {
        parts.push(match (change.file_type, change.size) {
            (Some(FileType::Symlink), _) => "target".to_owned(),
            (Some(FileType::Character | FileType::Block), _) => "device numbers".to_owned(),
            (_, (Some(before), Some(after))) if before != after => {
                format!("content, {} → {}", bytes(before), bytes(after))
            }
            _ => "content".to_owned(),
        });
    }
    if let Some(mode) = change.mode {
        parts.push(format!("mode {:04o} → {:04o}", mode.before, mode.after));
    }
    if let Some(owner) = change.owner {
        let ((u, g), (v, h)) = (owner.before, owner.after);
        parts.push(format!("owner {u}:{g} → {v}:{h}"));
    }
    if change.times {
        parts.push("time stamp".to_owned());
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

fn type_word(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Block => "block device",
        FileType::Character => "character device",
        FileType::Socket => "socket",
        FileType::Fifo => "fifo",
    }
}

fn change_value(change: &Change) -> Value {
    let mut value = json!({
        "path": shown(&change.path),
        "change": how_word(&change.how),
        "type": change.file_type.map(type_word),
        "content": change.content,
        "times": change.times,
        "compared": change.compared,
    });
    match &change.how {
        How::Linked { to } => value["to"] = json!(shown(to)),
        How::Renamed { from } => value["from"] = json!(shown(from)),
        How::Replaced { was } => value["was"] = json!(type_word(*was)),
        How::Added | How::Changed | How::Removed => {}
    }
    if let Some(after) = change.size.1 {
        value["size"] = json!({ "before": change.size.0, "after": after });
    }
    if let Some(mode) = change.mode {
        let text = |mode: u32| format!("{mode:04o}");
        value["mode"] = json!({ "before": text(mode.before), "after": text(mode.after) });
    }
    if let Some(owner) = change.owner {
        let ids = |(uid, gid): (u32, u32)| json!({ "uid": uid, "gid": gid });
        value["owner"] = json!({ "before": ids(owner.before), "after": ids(owner.after) });
    }
    value
}

pub(super) fn du(args: &Du) -> Outcome {
    let found = args.target.find()?;
    let usage = found.inspection.usage().map_err(failed)?;
    let total: u64 = usage.values().sum();
    let mut groups: BTreeMap<Vec<u8>, (u64, usize)> = BTreeMap::new();
    for (path, charge) in &usage {
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let group = names[..names.len().min(args.depth.max(1))].join(&b'/');
        let entry = groups.entry(group).or_default();
        entry.0 += charge;
        entry.1 += 1;
    }
    let mut groups: Vec<(Vec<u8>, (u64, usize))> = groups.into_iter().collect();
    groups.sort_by(|a, b| b.1.0.cmp(&a.1.0).then_with(|| a.0.cmp(&b.0)));
    let log = found.inspection.log_bytes();
    if args.output == TextFormat::Json {
        let entries: Vec<Value> = groups
            .iter()
            .map(|(path, (charge, files))| json!({ "path": shown(path), "bytes": charge, "files": files }))
            .collect();
        let value = json!({ "formatVersion": 1, "bytes": total, "logBytes": log, "entries": entries });
        return output::json(&value).map(|()| Exit::Done);
    }
    let mut rows: Vec<[String; 3]> = groups
        .iter()
        .map(|(path, (charge, files))| [bytes(*charge), files.to_string(), shown(path)])
        .collect();
    rows.insert(0, ["WRITTEN", "FILES", "PATH"].map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut out = String::new();
    for (n, [written, files, path]) in rows.iter().enumerate() {
        let line = format!("{written:>first$}  {files:>second$}  {path}");
        out.push_str(&if n == 0 { paint(BOLD, &line) } else { line });
        out.push('\n');
    }
    out.push_str(&paint(
        BOLD,
        &format!("{} written, and a log of {}\n", bytes(total), bytes(log)),
    ));
    output::styled(&out)?;
    Ok(Exit::Done)
}
