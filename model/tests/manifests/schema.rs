//! The schema for editors agrees with the tables that documents are checked against, by the word of a validator that knows
//! nothing of either.

use std::path::Path;

use jsonschema::Validator;
use serde::Deserialize;
use serde_json::{Value, json};
use xeno_model::id::{Digest, FleetName, NodeName, SliceName};
use xeno_model::init::scaffold;
use xeno_model::manifest::{Kind, json_schema, parse_file, reference};
use xeno_model::placement::lock_text;

use crate::examples::specs;
use crate::support::Repository;

fn validator() -> Validator {
    let schema = json_schema();
    jsonschema::meta::validate(&schema).expect("a JSON Schema");
    jsonschema::draft202012::new(&schema).expect("a validator")
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML that is also JSON"))
        .filter(|document| !document.is_null())
        .collect()
}

/// The text of ```` ```yaml PATH ```` blocks.
fn blocks(markdown: &str) -> Vec<&str> {
    let mut blocks: Vec<&str> = markdown.split("\n```yaml ").skip(1).collect();
    for block in &mut blocks {
        let text = block.split_once('\n').expect("a path").1;
        *block = text.split("\n```").next().expect("an end");
    }
    blocks
}

/// Every manifest there is in examples, in what is written for people, and in the documentation.
fn everything() -> Vec<(String, Value)> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(specs()).expect("examples") {
        let repository = Repository::read(&entry.expect("an example").path());
        for (path, (_, bytes)) in repository.files {
            if path.ends_with(".yaml") {
                texts.push((path, String::from_utf8(bytes).expect("text")));
            }
        }
    }
    let (fleet, node) = (FleetName::new("mine").unwrap(), NodeName::new("laptop").unwrap());
    for template in [None, Some(Digest::of(b"template"))] {
        let files = scaffold(&fleet, &node, template).into_iter();
        texts.extend(files.filter(|(path, _)| path.ends_with(".yaml")));
    }
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manual.md");
    let manual = std::fs::read_to_string(manual).expect("the manual");
    for document in [&manual, &reference()] {
        texts.extend(
            blocks(document)
                .into_iter()
                .map(|text| ("documentation".to_owned(), text.to_owned())),
        );
    }
    let slivers = [(0, node.clone()), (7, node)].into();
    texts.push((
        "a lock".to_owned(),
        lock_text(&SliceName::new("web").unwrap(), &slivers),
    ));
    texts
        .iter()
        .flat_map(|(path, text)| {
            documents(text)
                .into_iter()
                .map(move |document| (path.clone(), document))
        })
        .collect()
}

fn mistakes(validator: &Validator, document: &Value) -> Vec<String> {
    validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// Whether the tables find nothing wrong with it.
fn reads(document: &Value) -> bool {
    let text = serde_yaml::to_string(document).expect("YAML");
    parse_file("a.yaml", text.as_bytes()).findings().is_empty()
}

#[test]
fn every_manifest_there_is_validates() {
    let validator = validator();
    let all = everything();
    for kind in Kind::ALL {
        let count = all
            .iter()
            .filter(|(_, document)| document["kind"] == kind.as_str())
            .count();
        assert!(count > 0, "no {} among {} documents", kind.as_str(), all.len());
    }
    for (path, document) in all {
        assert_eq!(mistakes(&validator, &document), [""; 0], "{path}: {document:#}");
    }
}

#[test]
fn known_mistakes_do_not() {
    let validator = validator();
    let good = blocks(&reference())
        .into_iter()
        .find(|text| text.contains("kind: Slice"))
        .expect("a slice")
        .to_owned();
    let check = |from: &str, to: &str, said: &str| {
        assert!(good.contains(from), "{from} is not in\n{good}");
        let bad = documents(&good.replacen(from, to, 1)).remove(0);
        let found = mistakes(&validator, &bad).join("\n");
        assert!(found.contains(said), "{from} → {to}: no {said:?} in {found:?}");
        assert!(!reads(&bad), "{to}");
    };
    check("memory: 192MiB", "memroy: 192MiB", "memroy");
    check("memory: 192MiB, ", "", "memory");
    check("memory: 192MiB", "memory: 192MB", "192MB");
    check("memory: 192MiB", "memory: 192", "192");
    check("vcpus: 1", "vcpus: 0", "0");
    check("vcpus: 1", "vcpus: many", "many");
    check("guest: 80", "guest: 65536", "65536");
    check("spread: node", "spread: rack", "rack");
    check("replicas: 2", "replicas: 2, nodes: [cam-01]", "oneOf");
    check("replicas: 2, ", "", "oneOf");
    check("writable: local", "writable: here", "here");
    check("name: web", "name: Web", "Web");
    check("path: /", "path: srv", "srv");
    check("kind: Slice", "kind: Slices", "Slices");
    check("xenoslice/v1", "xenoslice/v2", "xenoslice/v2");
    check("expiry: 2031-01-01T00:00:00Z", "expiry: 2031-01-01", "2031-01-01");
    check(
        "health: { http: { port: 80 } }",
        "health: { interval: 5s }",
        "oneOf",
    );
    check("layers:", "layers: []\n        leyers:", "leyers");
}

/// Where values are in a document.
fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, below)| paths(below, &format!("{at}/{}", escaped(key)), all)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, below)| paths(below, &format!("{at}/{i}"), all)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Every document, made wrong in every place in several ways: the schema refuses what is wrong in its structure, and
/// nothing that the tables take.
#[test]
fn schema_and_tables_agree_on_structure() {
    let validator = validator();
    let mut seen = 0;
    // One of each kind, with most of its fields.
    let examples = reference();
    for document in blocks(&examples).into_iter().flat_map(documents) {
        let path = document["kind"].as_str().unwrap_or_default().to_owned();
        let mut all = Vec::new();
        paths(&document, "", &mut all);
        for at in all.iter().filter(|at| !at.is_empty()) {
            let (parent, key) = at.rsplit_once('/').expect("a parent");
            let key = key.replace("~1", "/").replace("~0", "~");
            let mut changed = Vec::new();
            for value in [
                Value::Null,
                json!({}),
                json!([]),
                json!(true),
                json!("???"),
                json!(-1),
                json!(70_000_000),
            ] {
                let mut document = document.clone();
                *document.pointer_mut(at).expect("a value") = value;
                changed.push(document);
            }
            if let Some(Value::Object(_)) = document.pointer(parent) {
                let mut without = document.clone();
                without
                    .pointer_mut(parent)
                    .and_then(Value::as_object_mut)
                    .expect("a mapping")
                    .remove(&key);
                assert_eq!(
                    validator.is_valid(&without),
                    reads(&without),
                    "{path} without {at}: {without:#}"
                );
                let mut with = document.clone();
                let map = with
                    .pointer_mut(parent)
                    .and_then(Value::as_object_mut)
                    .expect("a mapping");
                map.insert(format!("{key}?"), Value::Null);
                assert!(!validator.is_valid(&with) && !reads(&with), "{path} with {at}?");
            }
            assert!(!validator.is_valid(&changed[0]), "{path}: nothing at {at}");
            for changed in changed {
                seen += 1;
                assert!(
                    validator.is_valid(&changed) || !reads(&changed),
                    "{path}: {at} is refused: {changed:#}"
                );
            }
        }
    }
    assert!(seen > 500, "{seen}");
}

/// What completes and explains: each field has a description, and defaults are what one may write.
#[test]
fn every_field_is_described() {
    fn look(schema: &Value, at: &str, count: &mut usize) {
        if !schema.is_object() {
            return;
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            assert!(
                field["description"].as_str().is_some_and(|text| text.len() > 3),
                "{at}: {field}"
            );
            *count += 1;
            look(field, &at, count);
        }
        for below in ["items", "additionalProperties"] {
            look(&schema[below], at, count);
        }
    }
    let schema = json_schema();
    let mut count = 0;
    for (kind, definition) in schema["$defs"].as_object().expect("definitions") {
        look(definition, kind, &mut count);
    }
    assert!(count > 100, "{count}");
    let slice = &schema["$defs"]["Slice"]["properties"]["spec"]["properties"];
    assert_eq!(slice["state"]["default"], "running");
    assert_eq!(slice["health"]["properties"]["threshold"]["default"], 3);
    assert_eq!(
        slice["rollout"]["properties"]["waves"]["default"],
        json!(["100%"])
    );
    assert!(
        slice["expiry"]["description"]
            .as_str()
            .is_some_and(|text| text.contains("Default: never."))
    );
}
