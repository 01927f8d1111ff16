//! Small changes to the text of a manifest that leave everything else as its author wrote it: comments, order, quotes.
//!
//! A change is made where the parser says that a value stands, and then proved: what comes out is parsed again and must
//! differ in that one value and nowhere else. Text in which that cannot be done (a value behind an alias, say) is
//! refused, and the author changes it by hand.

use super::text::SourceText;
use super::tree::{self, NodeId, NodeValue, Step, Tree};
use super::{Kind, ParsedFile, parse_file};

/// Why a text was not changed. Messages fit after "failed to".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The file has no such document, or cannot be read as far.
    #[error("find the {} `{name}` in {path}", kind.noun())]
    NoDocument {
        /// The file.
        path: String,
        /// The kind.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// What the value would stand in is not there.
    #[error("find `{at}` of `{name}` in {path}")]
    NoPlace {
        /// The file.
        path: String,
        /// The document.
        name: String,
        /// Where.
        at: String,
    },
    /// The text is written in a way in which no single value can be changed by itself.
    #[error("change `{at}` of `{name}` in {path} alone, as it is written there")]
    Entangled {
        /// The file.
        path: String,
        /// The document.
        name: String,
        /// Where.
        at: String,
    },
}

/// One document of one file, open for changes.
#[derive(Clone, Debug)]
pub struct Editor<'a> {
    file: &'a ParsedFile,
    kind: Kind,
    name: &'a str,
}

impl<'a> Editor<'a> {
    /// Opens the document of that kind and name.
    #[must_use]
    pub fn new(file: &'a ParsedFile, kind: Kind, name: &'a str) -> Self {
        Self { file, kind, name }
    }

    /// The text of a scalar; `None` where it is not there or is no scalar.
    #[must_use]
    pub fn scalar(&self, at: &[Step<'_>]) -> Option<&'a str> {
        let root = self.root().ok()?;
        let id = find(&self.file.tree, root, at)?;
        self.file.tree.scalar_kind(id).map(|_| self.file.tree.text(id))
    }

    /// How many items a list has; `None` where there is no list.
    #[must_use]
    pub fn items(&self, at: &[Step<'_>]) -> Option<usize> {
        let id = find(&self.file.tree, self.root().ok()?, at)?;
        match &self.file.tree.node(id).value {
            NodeValue::List(items) => Some(items.len()),
            NodeValue::Scalar { .. } | NodeValue::Map(_) => None,
        }
    }

    /// The keys of a mapping, in order; `None` where there is none.
    #[must_use]
    pub fn keys(&self, at: &[Step<'_>]) -> Option<Vec<&'a str>> {
        let tree = &self.file.tree;
        match &tree.node(find(tree, self.root().ok()?, at)?).value {
            NodeValue::Map(entries) => Some(entries.iter().map(|(key, _)| tree.text(*key)).collect()),
            NodeValue::Scalar { .. } | NodeValue::List(_) => None,
        }
    }

    /// The file's text with the scalar `at` set to `value`, a word that needs no quotes. Where it is missing and only
    /// the mapping around it is there, it is added.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn set(&self, at: &[Step<'_>], value: &str) -> Result<String, EditError> {
        self.set_to(at, value, value)
    }

    /// The same with a name, which gets quotes where YAML would read something else than text.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn set_name(&self, at: &[Step<'_>], name: &str) -> Result<String, EditError> {
        self.set_to(at, &name_scalar(name), name)
    }

    /// `value` is how it is written, `meant` what is to be read from that.
    fn set_to(&self, at: &[Step<'_>], value: &str, meant: &str) -> Result<String, EditError> {
        let root = self.root()?;
        let tree = &self.file.tree;
        let source = self.source()?;
        let text = match find(tree, root, at) {
            Some(id) => {
                let NodeValue::Scalar { .. } = tree.node(id).value else {
                    return Err(self.entangled(at));
                };
                let span = tree.node(id).span;
                let from = byte(source, span.line, span.column);
                let to = quoted_end(source.text(), from)
                    .unwrap_or_else(|| byte(source, span.end_line, span.end_column));
                splice(source.text(), from, to, value)
            }
            None => self.add_entry(source, root, at, value)?,
        };
        self.proved(at, text, |was, is| match (was, is) {
            (None, Some(is)) | (Some(_), Some(is)) => is == format!("{meant:?}"),
            (_, None) => false,
        })
    }

    /// The file's text with one more item at the end of the list `at`; `item` is one line of flow style. Where the list
    /// is missing and only the mapping around it is there, it is made.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn append(&self, at: &[Step<'_>], item: &str) -> Result<String, EditError> {
        let root = self.root()?;
        let tree = &self.file.tree;
        let source = self.source()?;
        let text = match find(tree, root, at) {
            None => self.add_entry(source, root, at, &format!("[{item}]"))?,
            Some(id) => {
                let NodeValue::List(items) = &tree.node(id).value else {
                    return Err(self.entangled(at));
                };
                let span = tree.node(id).span;
                let start = byte(source, span.line, span.column);
                match (source.text()[start..].starts_with('['), items.last()) {
                    (true, last) => {
                        let end = byte(source, span.end_line, span.end_column);
                        let close = match source.text()[end..].starts_with(']') {
                            true => end,
                            false => start + source.text()[start..end.max(start)].rfind(']').unwrap_or(0),
                        };
                        let before = source.text()[..close].trim_end_matches([' ', '\t']).len();
                        // A comma may stand behind the last item already (YAML 1.2.2 §7.4.1).
                        let bare = source.text()[..before].trim_end().ends_with([',', '[']);
                        let comma = if last.is_none() || bare { "" } else { ", " };
                        splice(source.text(), before, close, &format!("{comma}{item}"))
                    }
                    (false, Some(last)) => {
                        // Under the dash of the item before.
                        let dash = source.line(tree.node(*last).span.line);
                        let indent = dash.len() - dash.trim_start().len();
                        let line = end_line(tree, source, *last);
                        insert_line(source, line + 1, indent, &format!("- {item}"))
                    }
                    (false, None) => return Err(self.entangled(at)),
                }
            }
        };
        self.proved(at, text, |was, is| {
            let inner = |text: &str| text[1..text.len() - 1].trim_end_matches(',').to_owned();
            match (was, is) {
                (Some(was), Some(is)) => {
                    inner(is).starts_with(&inner(was)) && inner(is).len() > inner(was).len()
                }
                (None, Some(_)) => true,
                (_, None) => false,
            }
        })
    }

    /// The file's text without item `index` of the list `at`, and without the list where that was its only item.
    ///
    /// # Errors
    /// [`EditError`], also where the item shares its lines with something else.
    pub fn remove_item(&self, at: &[Step<'_>], index: usize) -> Result<String, EditError> {
        let root = self.root()?;
        let tree = &self.file.tree;
        let source = self.source()?;
        let list = find(tree, root, at).ok_or_else(|| self.no_place(at))?;
        let NodeValue::List(items) = &tree.node(list).value else {
            return Err(self.entangled(at));
        };
        let item = *items.get(index).ok_or_else(|| self.no_place(at))?;
        let text = if items.len() == 1 {
            self.without_entry(source, root, at)?
        } else {
            let span = tree.node(list).span;
            let start = byte(source, span.line, span.column);
            if source.text()[start..].starts_with('[') {
                return Err(self.entangled(at));
            }
            let first = tree.node(item).span.line;
            if !source.line(first).trim_start().starts_with('-') {
                return Err(self.entangled(at));
            }
            remove_lines(source, first, end_line(tree, source, item))
        };
        let gone = items.len() == 1;
        self.proved(at, text, |was, is| match (was, is) {
            (Some(_), None) => gone,
            (Some(was), Some(is)) => !gone && is.len() < was.len(),
            (None, _) => false,
        })
    }

    /// The lines of the document: from the first that is its own to the last, comments before it included, without the
    /// marks around it.
    ///
    /// # Errors
    /// [`EditError::NoDocument`].
    pub fn document_text(&self) -> Result<String, EditError> {
        let root = self.root()?;
        let tree = &self.file.tree;
        let source = self.source()?;
        let line = tree.node(root).span.line;
        let mark = |line: u32| {
            let text = source.line(line);
            text == "---" || text == "..." || text.starts_with("--- ") || text.starts_with("... ")
        };
        let mut first = line;
        while first > 1 && !mark(first - 1) {
            first -= 1;
        }
        let mut last = end_line(tree, source, root);
        while last < source.lines() && !mark(last + 1) {
            last += 1;
        }
        let lines: Vec<&str> = (first..=last).map(|line| source.line(line)).collect();
        Ok(format!("{}\n", lines.join("\n").trim_matches('\n')))
    }

    fn source(&self) -> Result<&'a SourceText, EditError> {
        self.file.source.as_ref().ok_or_else(|| self.no_document())
    }

    fn root(&self) -> Result<NodeId, EditError> {
        let document = self
            .file
            .documents()
            .iter()
            .find(|document| document.kind == self.kind && document.name.as_deref() == Some(self.name));
        document
            .map(|document| document.root)
            .ok_or_else(|| self.no_document())
    }

    /// Adds an entry to the mapping around `at`, as its first: so that it belongs to no comment of another.
    fn add_entry(
        &self,
        source: &SourceText,
        root: NodeId,
        at: &[Step<'_>],
        value: &str,
    ) -> Result<String, EditError> {
        let tree = &self.file.tree;
        let Some((Step::Key(key), around)) = at.split_last() else {
            return Err(self.no_place(at));
        };
        let parent = find(tree, root, around).ok_or_else(|| self.no_place(at))?;
        let NodeValue::Map(entries) = &tree.node(parent).value else {
            return Err(self.entangled(at));
        };
        let span = tree.node(parent).span;
        let start = byte(source, span.line, span.column);
        if source.text()[start..].starts_with('{') {
            let more = if entries.is_empty() { "" } else { "," };
            let rest = &source.text()[start + 1..];
            let gap = if rest.starts_with([' ', '\n', '\r']) {
                ""
            } else {
                " "
            };
            return Ok(splice(
                source.text(),
                start + 1,
                start + 1,
                &format!(" {key}: {value}{more}{gap}"),
            ));
        }
        let Some((first, _)) = entries.first() else {
            return Err(self.entangled(at));
        };
        let first = tree.node(*first).span;
        let indent = usize::try_from(first.column).unwrap_or(0);
        // Behind the line of the key that the mapping belongs to, before comments of its first entry.
        let above = around.split_last().map(|_| tree.walk(root, around).0);
        let line = above.map_or(first.line, |key| tree.node(key).span.line + 1);
        if line > first.line {
            return Err(self.entangled(at));
        }
        let entry = match value.strip_prefix('[').and_then(|value| value.strip_suffix(']')) {
            // A list of its own reads better item by item.
            Some(item) => format!("{key}:\n{:width$}- {item}", "", width = indent + 2),
            None => format!("{key}: {value}"),
        };
        Ok(insert_line(source, line, indent, &entry))
    }

    /// The text without an entry that has its lines to itself.
    fn without_entry(&self, source: &SourceText, root: NodeId, at: &[Step<'_>]) -> Result<String, EditError> {
        let tree = &self.file.tree;
        let (key, value) = tree.walk(root, at);
        let first = tree.node(key).span.line;
        let column = usize::try_from(tree.node(key).span.column).unwrap_or(0);
        let before: String = source.line(first).chars().take(column).collect();
        if !before.trim().is_empty() {
            return Err(self.entangled(at));
        }
        Ok(remove_lines(source, first, end_line(tree, source, value)))
    }

    /// Gives out `text` if it says the same as before but for what is `at`, of which `judge` gets both forms.
    fn proved(
        &self,
        at: &[Step<'_>],
        text: String,
        judge: impl Fn(Option<&str>, Option<&str>) -> bool,
    ) -> Result<String, EditError> {
        let after = parse_file(&self.file.path, text.as_bytes());
        let (was, is) = (&self.file.tree, &after.tree);
        let own = was.roots.iter().position(|root| self.root() == Ok(*root));
        let mut same = was.roots.len() == is.roots.len();
        for (i, (before, after)) in was.roots.iter().zip(&is.roots).enumerate() {
            let apart: &[Step<'_>] = if Some(i) == own { at } else { &[] };
            same &= form(was, *before, apart) == form(is, *after, apart);
            if Some(i) == own {
                let value = |tree: &Tree, root| find(tree, root, at).map(|id| form(tree, id, &[]));
                same &= judge(value(was, *before).as_deref(), value(is, *after).as_deref());
            }
        }
        if same && own.is_some() {
            Ok(text)
        } else {
            Err(self.entangled(at))
        }
    }

    fn no_document(&self) -> EditError {
        EditError::NoDocument {
            path: self.file.path.clone(),
            kind: self.kind,
            name: self.name.to_owned(),
        }
    }

    fn no_place(&self, at: &[Step<'_>]) -> EditError {
        EditError::NoPlace {
            path: self.file.path.clone(),
            name: self.name.to_owned(),
            at: tree::path_text(at),
        }
    }

    fn entangled(&self, at: &[Step<'_>]) -> EditError {
        EditError::Entangled {
            path: self.file.path.clone(),
            name: self.name.to_owned(),
            at: tree::path_text(at),
        }
    }
}

/// A name as YAML reads it as text: some names are numbers or words of YAML.
pub(crate) fn name_scalar(name: &str) -> String {
    if name.starts_with(|c: char| c.is_ascii_digit()) || matches!(name, "null" | "true" | "false") {
        return format!("\"{name}\"");
    }
    name.to_owned()
}

/// The value at a path, all of it.
fn find(tree: &Tree, root: NodeId, path: &[Step<'_>]) -> Option<NodeId> {
    path.iter()
        .try_fold(root, |id, step| match (step, &tree.node(id).value) {
            (Step::Key(key), NodeValue::Map(_)) => tree.entry(id, key).map(|(_, value)| value),
            (Step::Index(index), NodeValue::List(items)) => items.get(*index).copied(),
            (Step::Key(_) | Step::Index(_), _) => None,
        })
}

/// What a value says, without the entry at `apart`. As long as the value unfolded, which the parser bounds.
fn form(tree: &Tree, id: NodeId, apart: &[Step<'_>]) -> String {
    let mut out = String::new();
    write_form(tree, id, Some(apart).filter(|apart| !apart.is_empty()), &mut out);
    out
}

fn write_form(tree: &Tree, id: NodeId, apart: Option<&[Step<'_>]>, out: &mut String) {
    match &tree.node(id).value {
        NodeValue::Scalar { text, .. } => out.push_str(&format!("{text:?}")),
        NodeValue::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                match apart {
                    Some([Step::Index(index)]) if *index == i => continue,
                    Some([Step::Index(index), rest @ ..]) if *index == i => {
                        write_form(tree, *item, Some(rest), out);
                    }
                    Some(_) | None => write_form(tree, *item, None, out),
                }
                out.push(',');
            }
            out.push(']');
        }
        NodeValue::Map(entries) => {
            out.push('{');
            for (key, value) in entries {
                let name = tree.text(*key);
                let rest = match apart {
                    Some([Step::Key(key)]) if *key == name => continue,
                    Some([Step::Key(key), rest @ ..]) if *key == name => Some(rest),
                    Some(_) | None => None,
                };
                out.push_str(&format!("{name:?}:"));
                write_form(tree, *value, rest, out);
                out.push(',');
            }
            out.push('}');
        }
    }
}

/// Where a scalar in quotes that begins at `from` ends (YAML 1.2.2 §7.3.1, §7.3.2); `None` if it has none. The parser says
/// that it ends where the next thing begins, which would take a comment behind it along.
fn quoted_end(text: &str, from: usize) -> Option<usize> {
    let mut rest = text[from..].char_indices();
    let (_, quote) = rest.next()?;
    if !matches!(quote, '"' | '\'') {
        return None;
    }
    while let Some((at, c)) = rest.next() {
        if c == '\\' && quote == '"' {
            rest.next();
        } else if c == quote {
            let end = from + at + c.len_utf8();
            // Two single quotes are one of the text.
            if quote == '\'' && text[end..].starts_with('\'') {
                rest.next();
            } else {
                return Some(end);
            }
        }
    }
    None
}

/// The byte at which a character of a line stands.
fn byte(source: &SourceText, line: u32, column: u32) -> usize {
    let text = source.line(line);
    let column = usize::try_from(column).unwrap_or(usize::MAX);
    let within = text.char_indices().nth(column).map_or(text.len(), |(at, _)| at);
    source.line_start(line) + within
}

/// The last line that a value has something on. The parser ends what is written in block style where the next thing
/// begins.
fn end_line(tree: &Tree, source: &SourceText, id: NodeId) -> u32 {
    let node = tree.node(id);
    let start = byte(source, node.span.line, node.span.column);
    let flow = source.text()[start..].starts_with(['{', '[']);
    let ends = match &node.value {
        NodeValue::List(items) if !flow => items.iter().map(|item| end_line(tree, source, *item)).max(),
        NodeValue::Map(entries) if !flow => entries
            .iter()
            .map(|(key, value)| end_line(tree, source, *key).max(end_line(tree, source, *value)))
            .max(),
        NodeValue::Scalar { .. } | NodeValue::List(_) | NodeValue::Map(_) => None,
    };
    let whole = if node.span.end_column == 0 && node.span.end_line > node.span.line {
        node.span.end_line - 1
    } else {
        node.span.end_line
    };
    ends.unwrap_or(whole)
}

fn splice(text: &str, from: usize, to: usize, with: &str) -> String {
    format!("{}{with}{}", &text[..from], &text[to..])
}

/// Puts lines before line `line`, indented, ended as the lines of the file are.
fn insert_line(source: &SourceText, line: u32, indent: usize, lines: &str) -> String {
    let text = source.text();
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let at = source.line_start(line);
    let before = if text[..at].is_empty() || text[..at].ends_with('\n') {
        ""
    } else {
        ending
    };
    let lines = lines.replace('\n', ending);
    splice(text, at, at, &format!("{before}{:indent$}{lines}{ending}", ""))
}

fn remove_lines(source: &SourceText, first: u32, last: u32) -> String {
    splice(
        source.text(),
        source.line_start(first),
        source.line_start(last + 1),
        "",
    )
}

#[cfg(test)]
mod tests;
