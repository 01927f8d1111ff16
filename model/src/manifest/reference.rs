//! The reference of all fields, as Markdown: made from the tables that documents are checked against, with an example of
//! every kind. The examples together are a fleet.

use super::kinds::Kind;
use super::schema::written;
use super::shape::{Field, MapShape, Shape, TextShape};

/// What stands above the tables.
const HEAD: &str = include_str!("reference/head.md");

/// Where an example's document would lie, and its text.
fn example(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Fleet => ("fleet.yaml", include_str!("reference/fleet.yaml")),
        Kind::Site => ("sites/cam.yaml", include_str!("reference/site.yaml")),
        Kind::Node => ("nodes/cam-01.yaml", include_str!("reference/node.yaml")),
        Kind::Template => (
            "templates/debian-web.yaml",
            include_str!("reference/template.yaml"),
        ),
        Kind::Tenant => ("tenants/acme.yaml", include_str!("reference/tenant.yaml")),
        Kind::Slice => ("slices/web.yaml", include_str!("reference/slice.yaml")),
        Kind::Placement => (
            "placement/web.lock.yaml",
            include_str!("reference/placement.yaml"),
        ),
        Kind::Moves => ("placement/moves.yaml", include_str!("reference/moves.yaml")),
    }
}

/// Every field of every kind: `docs/manifests.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for kind in Kind::ALL {
        let (path, text) = example(kind);
        out.push_str(&format!(
            "\n## {}\n\n{}\n\n```yaml {path}\n{text}```\n",
            kind.as_str(),
            kind.doc()
        ));
        out.push_str("\n| field | | type | default | what it says |\n| --- | --- | --- | --- | --- |\n");
        // What every document has is said above.
        let own = kind
            .shape()
            .fields
            .iter()
            .filter(|field| !matches!(field.name, "apiVersion" | "kind"));
        let mut rows = Rows {
            out: &mut out,
            shown: Vec::new(),
        };
        for field in own {
            rows.field("", field, false);
        }
    }
    out
}

struct Rows<'a> {
    out: &'a mut String,
    /// Mappings that have rows already, and where.
    shown: Vec<(&'static MapShape, String)>,
}

impl Rows<'_> {
    /// The depth of the recursion is that of the tables.
    fn field(&mut self, above: &str, field: &'static Field, choice: bool) {
        let path = if above.is_empty() {
            field.name.to_owned()
        } else {
            format!("{above}.{}", field.name)
        };
        let (below, path_below) = inner(&field.shape, &path);
        let before = below.and_then(|map| self.shown.iter().find(|(other, _)| std::ptr::eq(*other, map)));
        let before = before.map(|(_, path)| format!(" Fields as in `{path}`."));
        let need = match (field.required, choice) {
            (true, _) => "required",
            (false, true) => "one of",
            (false, false) => "",
        };
        let default = match field.default {
            None => String::new(),
            Some(default) if written(&field.shape, default).is_some() => format!("`{default}`"),
            Some(default) => default.to_owned(),
        };
        let cells = [
            format!("`{path}`"),
            need.to_owned(),
            type_of(&field.shape),
            default,
            format!("{}{}", field.doc, before.as_deref().unwrap_or_default()),
        ];
        let row: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        self.out.push_str(&format!("| {} |\n", row.join(" | ")));
        let Some(map) = below.filter(|_| before.is_none()) else {
            return;
        };
        self.shown.push((map, path_below.clone()));
        for field in map.fields {
            self.field(&path_below, field, map.one_of.contains(&field.name));
        }
    }
}

/// The mapping that a value is, or is made of, and its path.
fn inner(shape: &'static Shape, path: &str) -> (Option<&'static MapShape>, String) {
    match shape {
        Shape::Map(map) | Shape::TextOrMap { map, .. } => (Some(map), path.to_owned()),
        Shape::List { item, .. } => inner(item, &format!("{path}[]")),
        Shape::Free { value, .. } => inner(value, &format!("{path}.*")),
        Shape::Text(_) | Shape::TextOrNumber(_) | Shape::Word(_) | Shape::Number { .. } | Shape::Flag => {
            (None, path.to_owned())
        }
    }
}

fn type_of(shape: &Shape) -> String {
    let text = |kind: &TextShape| format!("{} ({})", kind.what, kind.how);
    match shape {
        Shape::Map(_) => "mapping".to_owned(),
        Shape::Free { key, value, len_max } => match &**value {
            Shape::Map(_) => format!("mapping, at most {len_max}, by {}", text(key)),
            value => format!(
                "mapping, at most {len_max}: {} ({}) to {}",
                key.what,
                key.how,
                type_of(value)
            ),
        },
        Shape::List { item, len_max } => match &**item {
            Shape::Map(_) => format!("list of mappings, at most {len_max}"),
            item => format!("list, at most {len_max}: {}", type_of(item)),
        },
        Shape::Text(kind) | Shape::TextOrNumber(kind) => text(kind),
        Shape::TextOrMap { text: kind, .. } => format!("{}; or a mapping", text(kind)),
        Shape::Word(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Shape::Number { min, max } => format!("number, {min} to {max}"),
        Shape::Flag => "`true`, `false`".to_owned(),
    }
}
