//! A JSON Schema of manifests (draft 2020-12), for editors: made from the tables that documents are checked against.
//!
//! It may allow more than the readers do (what a path may hold, what spans fields), and never less; what it says of a
//! field is what the reference says.

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::shape::{Field, MapShape, Shape, TextShape};

/// The schema of every kind of document, chosen by its `kind`.
#[must_use]
pub fn json_schema() -> Value {
    let kinds: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
    let chosen = |kind: Kind| {
        json!({
            "if": { "properties": { "kind": { "const": kind.as_str() } }, "required": ["kind"] },
            "then": { "$ref": format!("#/$defs/{}", kind.as_str()) },
        })
    };
    let definition = |kind: Kind| {
        let mut schema = mapping(kind.shape());
        schema.insert("title".into(), kind.as_str().into());
        schema.insert("description".into(), kind.doc().into());
        // The document is of this kind and of no other.
        schema["properties"]["kind"] = json!({ "const": kind.as_str(), "description": kind.doc() });
        (kind.as_str().to_owned(), Value::Object(schema))
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Xenoslice manifest",
        "description": "One document of a fleet's repository: xenoslice/v1.",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {
            "apiVersion": { "description": "Version of the format of this document.", "enum": [super::API_VERSION] },
            "kind": { "description": "What this document describes.", "enum": kinds },
        },
        "allOf": Kind::ALL.map(chosen),
        "$defs": Kind::ALL.into_iter().map(definition).collect::<Map<_, _>>(),
    })
}

fn mapping(map: &MapShape) -> Map<String, Value> {
    let properties: Map<String, Value> = map
        .fields
        .iter()
        .map(|field| (field.name.to_owned(), property(field)))
        .collect();
    let required: Vec<&str> = map
        .fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), properties.into());
    schema.insert("additionalProperties".into(), false.into());
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    if !map.one_of.is_empty() {
        let choices = map.one_of.iter().map(|name| json!({ "required": [name] }));
        schema.insert("oneOf".into(), choices.collect());
    }
    schema
}

/// A field with what it says; what it holds where it is left out is said in words if it cannot be written.
fn property(field: &Field) -> Value {
    let mut schema = value(&field.shape);
    let mut description = field.doc.to_owned();
    if let Shape::Text(text) | Shape::TextOrNumber(text) = &field.shape {
        description.push_str(&format!("\n\nWrite {}.", plain(text.how)));
    }
    if let Some(default) = field.default {
        match written(&field.shape, default) {
            Some(value) => drop(schema.insert("default".into(), value)),
            None => description.push_str(&format!("\n\nDefault: {}.", plain(default))),
        }
    }
    schema.insert("description".into(), description.into());
    schema.into()
}

fn value(shape: &Shape) -> Map<String, Value> {
    let schema = match shape {
        Shape::Map(map) => return mapping(map),
        Shape::Free {
            key,
            value: inner,
            len_max,
        } => json!({
            "type": "object",
            "propertyNames": text(key),
            "additionalProperties": value(inner),
            "maxProperties": len_max,
        }),
        Shape::List { item, len_max } => {
            json!({ "type": "array", "items": value(item), "maxItems": len_max })
        }
        Shape::Text(kind) => return text(kind),
        Shape::TextOrNumber(kind) => {
            let mut schema = text(kind);
            schema.insert("type".into(), json!(["string", "integer"]));
            schema.insert("minimum".into(), 0.into());
            return schema;
        }
        // What JSON Schema says of mappings counts for mappings alone, and what it says of texts for texts.
        Shape::TextOrMap { text: kind, map } => {
            let mut schema = mapping(map);
            schema.extend(text(kind));
            schema.insert("type".into(), json!(["string", "integer", "object"]));
            schema.insert("minimum".into(), 0.into());
            return schema;
        }
        Shape::Word(words) => json!({ "type": "string", "enum": words }),
        Shape::Number { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Flag => json!({ "type": "boolean" }),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

fn text(kind: &TextShape) -> Map<String, Value> {
    let mut schema = Map::new();
    schema.insert("type".into(), "string".into());
    if let Some(pattern) = kind.pattern {
        schema.insert("pattern".into(), pattern.into());
        // What an editor says instead of showing the pattern (vscode-json-languageservice).
        schema.insert(
            "patternErrorMessage".into(),
            format!("write {}", plain(kind.how)).into(),
        );
    }
    schema
}

/// A default as a value, where it is one and not a description of what happens.
pub(super) fn written(shape: &Shape, default: &str) -> Option<Value> {
    match shape {
        Shape::Word(words) => words.contains(&default).then(|| default.into()),
        Shape::Number { min, max } => {
            let number: u64 = default.parse().ok()?;
            (*min..=*max).contains(&number).then(|| number.into())
        }
        Shape::Flag => default.parse::<bool>().ok().map(Value::from),
        Shape::Text(text) => (text.read)(default).is_ok().then(|| default.into()),
        Shape::TextOrNumber(text) | Shape::TextOrMap { text, .. } => {
            (text.read)(default).ok()?;
            Some(
                default
                    .parse::<u64>()
                    .map_or_else(|_| default.into(), Value::from),
            )
        }
        Shape::Map(_) | Shape::Free { .. } | Shape::List { .. } => {
            let flow = default.starts_with(['{', '[']);
            flow.then(|| serde_yaml::from_str(default).ok()).flatten()
        }
    }
}

/// Without the marks of Markdown: editors show descriptions as they are.
fn plain(text: &str) -> String {
    text.replace('`', "")
}
