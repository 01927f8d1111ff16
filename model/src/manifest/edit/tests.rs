use proptest::prelude::*;

use super::*;

const STATE: &[Step<'_>] = &[Step::Key("spec"), Step::Key("state")];
const OVERRIDES: &[Step<'_>] = &[Step::Key("spec"), Step::Key("overrides")];

fn slice(spec: &str) -> String {
    format!("# Above.\nkind: Slice # of\nmetadata: {{ name: web }}\n{spec}")
}

fn set(text: &str, value: &str) -> Result<String, EditError> {
    let file = parse_file("web.yaml", text.as_bytes());
    Editor::new(&file, Kind::Slice, "web").set(STATE, value)
}

#[test]
fn one_scalar_changes_and_nothing_else() {
    let check = |before: &str, after: &str| {
        let expected = slice(after);
        assert_eq!(set(&slice(before), "suspended").as_deref(), Ok(expected.as_str()));
    };
    check(
        "spec:\n  x: 1   # one\n  state:   running   # as ever\n  y: [a,\n   b]\n",
        "spec:\n  x: 1   # one\n  state:   suspended   # as ever\n  y: [a,\n   b]\n",
    );
    check("spec: {a: b, state: 'running'}", "spec: {a: b, state: suspended}");
    check(
        "spec:\n  state: \"stopped\"\n  ü: ö\n",
        "spec:\n  state: suspended\n  ü: ö\n",
    );
    check(
        "spec: { ü: ö, state: running }\n",
        "spec: { ü: ö, state: suspended }\n",
    );
    check("spec:\r\n  state: running\r\n", "spec:\r\n  state: suspended\r\n");
    check(
        "spec:\n  state: running\n---\nkind: Slice\nmetadata: { name: db }\nspec: { state: running }\n",
        "spec:\n  state: suspended\n---\nkind: Slice\nmetadata: { name: db }\nspec: { state: running }\n",
    );
}

#[test]
fn what_is_missing_is_added() {
    let check = |before: &str, after: &str| {
        let expected = slice(after);
        assert_eq!(set(&slice(before), "suspended").as_deref(), Ok(expected.as_str()));
    };
    check(
        "spec: # what\n  # The image.\n  image: x\n",
        "spec: # what\n  state: suspended\n  # The image.\n  image: x\n",
    );
    check("spec: { image: x }\n", "spec: { state: suspended, image: x }\n");
    check("spec: {image: x}\n", "spec: { state: suspended, image: x}\n");
    check("spec: {}\n", "spec: { state: suspended }\n");
    check(
        "spec:\r\n    image: x",
        "spec:\r\n    state: suspended\r\n    image: x",
    );
}

#[test]
fn what_cannot_be_changed_alone_is_refused() {
    let refused = |spec: &str| {
        let result = set(&slice(spec), "suspended");
        assert!(matches!(result, Err(EditError::Entangled { .. })), "{result:?}");
    };
    refused("spec:\n  a: &x running\n  state: *x\n");
    refused("spec:\n  state: &x running\n  a: *x\n");
    refused("spec:\n  state: [running]\n");
    refused("spec: running\n");
    let none = set(
        "kind: Slice\nmetadata: { name: db }\nspec: { state: running }\n",
        "suspended",
    );
    assert!(matches!(none, Err(EditError::NoDocument { .. })), "{none:?}");
    assert_eq!(
        none.map_err(|error| error.to_string()),
        Err("find the slice `web` in web.yaml".to_owned())
    );
    let no_spec = set(&slice(""), "suspended");
    assert!(matches!(no_spec, Err(EditError::NoPlace { .. })), "{no_spec:?}");
}

#[test]
fn items_come_at_the_end_of_lists_and_go_again() {
    let check = |before: &str, after: &str| {
        let (before, after) = (slice(before), slice(after));
        let file = parse_file("web.yaml", before.as_bytes());
        let editor = Editor::new(&file, Kind::Slice, "web");
        let count = editor.items(OVERRIDES).unwrap_or(0);
        assert_eq!(
            editor.append(OVERRIDES, "{ a: b }").as_deref(),
            Ok(after.as_str())
        );
        let file = parse_file("web.yaml", after.as_bytes());
        let editor = Editor::new(&file, Kind::Slice, "web");
        assert_eq!(editor.items(OVERRIDES), Some(count + 1));
        let at = [OVERRIDES, &[Step::Index(count), Step::Key("a")]].concat();
        assert_eq!(editor.scalar(&at), Some("b"));
        if !after.contains("overrides: [") {
            assert_eq!(
                editor.remove_item(OVERRIDES, count).as_deref(),
                Ok(before.as_str())
            );
        }
    };
    check(
        "spec:\n  image: x\n",
        "spec:\n  overrides:\n    - { a: b }\n  image: x\n",
    );
    check(
        "spec:\n  overrides: # some\n    - match: { site: x }\n      # why\n      patch:\n        state: y # so\n    # a last word\n  image: x\n",
        "spec:\n  overrides: # some\n    - match: { site: x }\n      # why\n      patch:\n        state: y # so\n    - { a: b }\n    # a last word\n  image: x\n",
    );
    check(
        "spec:\n  overrides:\n  - text: |\n      two\n      lines\n",
        "spec:\n  overrides:\n  - text: |\n      two\n      lines\n  - { a: b }\n",
    );
    check(
        "spec:\n  overrides: [{ c: d }]\n",
        "spec:\n  overrides: [{ c: d }, { a: b }]\n",
    );
    check("spec: { overrides: [] }\n", "spec: { overrides: [{ a: b }] }\n");
}

#[test]
fn a_document_is_taken_out_with_its_comments() {
    let text = "# Of the site.\nkind: Site\nmetadata: { name: home }\n\n---\n\n# Of the slice.\nkind: Slice\nmetadata: { name: web }\nspec:\n  a: |\n    b\n# After.\n---\nkind: Slice\nmetadata: { name: db }\n";
    let file = parse_file("all.yaml", text.as_bytes());
    let taken = |name| Editor::new(&file, Kind::Slice, name).document_text();
    assert_eq!(
        taken("web").as_deref(),
        Ok("# Of the slice.\nkind: Slice\nmetadata: { name: web }\nspec:\n  a: |\n    b\n# After.\n")
    );
    assert_eq!(
        taken("db").as_deref(),
        Ok("kind: Slice\nmetadata: { name: db }\n")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands around it: the change is exactly that word, or there is none.
    #[test]
    fn nothing_else_ever_changes(
        before in "[ a-z:#'\"&*\\[\\]{},\\n-]{0,40}",
        gap in "[ ]{1,3}",
        after in "([ ]{1,3}#[a-z ü]{0,9})?",
        rest in "[ a-z:#'\"&*\\[\\]{},\\n-]{0,40}",
    ) {
        let text = format!("kind: Slice\nmetadata: {{ name: web }}\nspec:\n  a: {before}\n  state:{gap}running{after}\n  b: {rest}\n");
        let line = |word: &str| format!("  state:{gap}{word}{after}\n");
        let expected = text.replacen(&line("running"), &line("suspended"), 1);
        if text.matches(&line("running")).count() == 1
            && let Ok(changed) = set(&text, "suspended")
        {
            prop_assert!(changed == expected || changed.contains(&line("running")), "{changed}");
        }
    }
}

#[test]
fn names_get_quotes_where_yaml_would_read_something_else() {
    const NODE: &[Step<'_>] = &[Step::Key("spec"), Step::Key("nodes"), Step::Index(1)];
    let check = |name: &str, written: &str| {
        let before = slice("spec:\n  nodes:\n    - a # first\n    - \"b\" # second\n");
        let file = parse_file("web.yaml", before.as_bytes());
        let after = Editor::new(&file, Kind::Slice, "web").set_name(NODE, name);
        assert_eq!(after, Ok(before.replace("\"b\"", written)));
    };
    check("cam-01", "cam-01");
    check("0x1f", "\"0x1f\"");
    check("null", "\"null\"");
}

#[test]
fn a_comment_behind_quotes_stays() {
    let check = |quoted: &str| {
        let text = |value: &str| slice(&format!("spec:\n  state: {value} # it's \"so\"\n"));
        assert_eq!(
            set(&text(quoted), "suspended").as_deref(),
            Ok(text("suspended").as_str())
        );
    };
    for quoted in ["\"a\"", "'a'", "''", "\"\"", "'it''s'", "\"\\\"b\\\\\"", "'\\'"] {
        check(quoted);
    }
}
