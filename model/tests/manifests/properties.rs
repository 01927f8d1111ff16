//! What holds for every input.

use proptest::prelude::*;
use xeno_model::diagnostic::{Code, Paint, Report};
use xeno_model::manifest::parse_file;
use xeno_model::resolve::resolve;

use crate::support::Repository;

const WORDS: &[&str] = &[
    "apiVersion: xenoslice/v1\n",
    "kind: Slice\n",
    "kind: Node\n",
    "kind: ",
    "metadata: ",
    "{ name: a }\n",
    "spec:\n",
    "  ",
    "- ",
    ": ",
    "\n",
    "\t",
    "\r",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!!str ",
    "<<: ",
    "|",
    ">-\n",
    "'",
    "\"",
    "# x\n",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "? ",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "null",
    "0x1f",
    "é",
    "image: ",
    "mounts: ",
    "nodes: [a]",
];

fn told(bytes: &[u8]) {
    let file = parse_file("a.yaml", bytes);
    let findings = resolve(&[&file], &xeno_model::repository::RepositoryTree::default()).unwrap_err();
    let report = Report::new(findings);
    assert!(!report.render(Paint::Plain).is_empty());
    serde_json::from_str::<serde_json::Value>(&report.to_json()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_told_about(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        told(&bytes);
    }

    #[test]
    fn any_words_are_told_about(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..40)) {
        told(words.concat().as_bytes());
    }

    /// What a plain scalar is must not depend on the reader of YAML.
    #[test]
    fn readers_agree_on_plain_scalars(text in "[-+0-9a-fxob._eEInNtrusl~]{0,7}") {
        let file = parse_file("a.yaml", format!("a: [{text}x, {text}]\nb: {text}\n").as_bytes());
        prop_assert!(file.findings().iter().all(|finding| finding.code != Code::Ambiguous), "{:?}", file.findings());
    }
}

proptest! {
    // Each case parses and resolves a whole fleet twice.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_of_files_does_not_matter(order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(), broken in any::<bool>()) {
        let mut repository = Repository::read(&crate::examples::specs().join("realistic"));
        if broken {
            repository.put("slices/again.yaml", "apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: cam }\n");
        }
        let parsed = repository.parse();
        let expected = resolve(&parsed.iter().collect::<Vec<_>>(), &repository.tree());
        let shuffled: Vec<_> = order.iter().filter_map(|i| parsed.get(*i)).collect();
        prop_assert!((19..=20).contains(&parsed.len()) && shuffled.len() == parsed.len());
        prop_assert_eq!(resolve(&shuffled, &repository.tree()), expected);
    }
}

/// A fleet that somebody has edited with their eyes closed: pieces of its own files, moved about.
fn mangled(edits: &[(usize, usize, usize, usize)]) -> Repository {
    let mut repository = Repository::read(&crate::examples::specs().join("realistic"));
    let paths: Vec<String> = repository.files.keys().cloned().collect();
    for (from, to, at, len) in edits {
        let piece = {
            let bytes = &repository.files[&paths[from % paths.len()]].1;
            let start = at % (bytes.len() + 1);
            bytes[start..bytes.len().min(start + len)].to_vec()
        };
        let (_, bytes) = repository.files.get_mut(&paths[to % paths.len()]).unwrap();
        let start = (at / 7) % (bytes.len() + 1);
        let end = bytes.len().min(start + len / 2);
        bytes.splice(start..end, piece);
    }
    repository
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mangled_fleets_are_told_about(edits in proptest::collection::vec((0..99_usize, 0..99_usize, any::<usize>(), 0..40_usize), 1..12)) {
        if let Err(findings) = mangled(&edits).resolve() {
            prop_assert!(!findings.is_empty());
            let text = Report::new(findings).render(Paint::Plain);
            prop_assert!(text.contains("error[E01"), "{}", text);
        }
    }
}

/// A thousand small files are parsed in well under a second by a release build; this only keeps the cost from growing
/// with the square of anything.
#[test]
fn hundreds_of_files_and_a_hundred_thousand_slivers_are_no_trouble() {
    let mut repository = Repository::read(&crate::examples::specs().join("small"));
    let web = String::from_utf8(repository.files["slices/web.yaml"].1.clone()).unwrap();
    let idle = |name: &str| {
        web.replace("name: web", &format!("name: {name}"))
            .replace("state: running", "state: stopped")
            .lines()
            .filter(|line| !line.contains("publish") && !line.contains("health"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    for i in 0..500 {
        repository.put(&format!("slices/s{i}.yaml"), idle(&format!("s{i}")));
    }
    let many = vec!["laptop"; 99_499].join(", ");
    repository.put(
        "slices/many.yaml",
        idle("many").replace("[laptop]", &format!("[{many}]")),
    );
    let fleet = repository
        .resolve()
        .map_err(|findings| Report::new(findings).render(Paint::Plain))
        .unwrap();
    assert_eq!(
        fleet
            .slices
            .values()
            .map(|slice| slice.slivers.len())
            .sum::<usize>(),
        100_000
    );
    repository.put("slices/one-more.yaml", idle("one-more"));
    let findings = repository.resolve().unwrap_err();
    assert_eq!(
        findings.iter().map(|finding| finding.code).collect::<Vec<_>>(),
        [Code::Limit]
    );
}

/// One document, written so that each line can be made wrong without touching what another one means.
const SLICE: &str = "\
apiVersion: xenoslice/v1
kind: Slice
metadata: { name: extra }
spec:
  image:
    kernel: debian-web/current
    mounts:
      - path: /
        layers:
          - { template: debian-web/current }
          - { files: { /etc/motd: { text: hello } } }
      - path: /srv
        writable: local
        layers: [{ template: debian-web/current }]
  resources:
    vcpus: 1
    memory: 1MiB
    disk: 1GiB
    net: { rate: 10Mbit }
  placement: { nodes: [laptop] }
  publish: [{ guest: 90, host: 19090 }]
  health: { http: { port: 90 }, interval: 5s, grace: 60s }
  start: resume
  expiry: 2027-01-01T00:00:00Z
  rollout: { canary: 1, waves: [50%, 100%] }
  migration: { downtime: 300ms }
  overrides:
    - match: { site: home }
      patch: { resources: { cpu: { weight: 9 } }, state: stopped }
";

/// What is right, what somebody writes instead, and how often that is reported.
const MISTAKES: &[(&str, &str, usize)] = &[
    ("kernel: debian-web/current", "kernel: debian-wob/current", 1),
    (
        "- { template: debian-web/current }",
        "- { template: debian-web/currant }",
        1,
    ),
    ("{ text: hello }", "{ from: no/such/file }", 1),
    ("path: /srv", "path: srv", 1),
    ("writable: local", "writable: maybe", 1),
    ("vcpus: 1", "vcpus: 1\n    vcpus: 2", 1),
    ("memory: 1MiB", "memroy: 192MB", 1),
    ("disk: 1GiB", "disk: 1GB", 1),
    ("net: { rate: 10Mbit }", "net: { rate: 10Mbit, burst: 5 }", 1),
    ("nodes: [laptop]", "nodes: [laptop, labtop]", 1),
    ("[{ guest: 90,", "[{ guest: 91, host: 65535 }, { guest: 90,", 0),
    ("http: { port: 90 }", "http: { port: 92 }", 1),
    ("interval: 5s", "interval: 5 s", 1),
    ("  health:", "  state: asleep\n  health:", 1),
    ("kind: Slice", "kind: Slice # \u{e9}", 0),
    ("name: extra", "name: Extra", 1),
    ("start: resume", "start: later", 1),
    ("expiry: 2027-01-01T00:00:00Z", "expiry: 2027-01-01", 1),
    ("waves: [50%, 100%]", "waves: [50%, 20%, 100%]", 1),
    ("canary: 1", "canary: one", 1),
    ("downtime: 300ms", "downtime: 300", 1),
    ("site: home", "site: hom", 1),
    ("weight: 9", "wait: 9", 1),
    ("state: stopped", "state: stop", 1),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Mistakes of one document neither hide each other nor make new ones.
    #[test]
    fn mistakes_of_a_document_are_all_told_and_no_others(chosen in proptest::sample::subsequence(MISTAKES, 0..MISTAKES.len())) {
        let mut text = SLICE.to_owned();
        let mut expected = 0;
        for (right, wrong, reported) in &chosen {
            prop_assert!(text.matches(right).count() == 1, "{}", right);
            text = text.replace(right, wrong);
            expected += reported;
        }
        // Ports stay ports for every sliver: these two are only wrong together.
        let has = |part: &str| usize::from(text.contains(part));
        expected += has("labtop") * has("host: 65535");
        let mut repository = Repository::read(&crate::examples::specs().join("small"));
        repository.put("slices/extra.yaml", text.clone());
        let findings = repository.resolve().err().unwrap_or_default();
        let told = Report::new(findings.clone()).render(Paint::Plain);
        prop_assert!(findings.len() == expected, "{} expected in\n{}\nbut told\n{}", expected, text, told);
    }
}

/// Where something is missing, nothing is read as a default.
#[test]
fn nothing_is_never_a_value() {
    let lines: Vec<&str> = SLICE.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        for (at, _) in line.match_indices(": ") {
            let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            let rest = &line[at + 2..];
            let value = rest.find([',', '}']).map_or("", |end| &rest[end..]);
            // Only a scalar can be replaced by itself.
            if rest.starts_with(['{', '[']) {
                continue;
            }
            lines[i] = format!("{}: null{value}", &line[..at]);
            let mut repository = Repository::read(&crate::examples::specs().join("small"));
            repository.put("slices/extra.yaml", lines.join("\n"));
            assert!(repository.resolve().is_err(), "{}", lines[i]);
        }
    }
}

/// Something that an override says: for which slivers, and one or two fields.
type Said = (usize, Option<u64>, Option<u64>, bool);

const MATCHES: &[&str] = &[
    "{}",
    "{ number: 0 }",
    "{ number: 1-2 }",
    "{ node: laptop }",
    "{ number: 2, site: home }",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Overrides do what somebody does who goes through them in order and writes each over what is there.
    #[test]
    fn overrides_are_written_over_each_other_in_order(
        said in proptest::collection::vec((0..MATCHES.len(), proptest::option::of(1..4_u64), proptest::option::of(1..9_u64), any::<bool>()), 0..6),
    ) {
        let mut text = SLICE.split("  health:").next().unwrap().replace("[laptop]", "[laptop, laptop, laptop]");
        text.push_str("  state: stopped\n  overrides:\n");
        for (which, memory, weight, mount) in &said {
            text.push_str(&format!("    - match: {}\n      patch:\n        rollback: {{ data: keep }}\n", MATCHES[*which]));
            if *mount {
                text.push_str("        image: { mounts: [{ path: /srv, writable: none }, { path: /new }] }\n");
            }
            if let (None, None) = (memory, weight) {
                continue;
            }
            text.push_str("        resources:\n");
            text.extend(memory.map(|mib| format!("          memory: {mib}MiB\n")));
            text.extend(weight.map(|weight| format!("          cpu: {{ weight: {weight} }}\n")));
        }
        let mut repository = Repository::read(&crate::examples::specs().join("small"));
        repository.put("slices/extra.yaml", text.replace("  overrides:\n", if said.is_empty() { "" } else { "  overrides:\n" }));
        let fleet = repository.resolve().map_err(|findings| Report::new(findings).render(Paint::Plain)).unwrap();
        let slice = &fleet.slices[&xeno_model::id::SliceName::new("extra").unwrap()];
        for (number, (_, sliver)) in &slice.slivers {
            let applies = |(which, ..): &&Said| match which {
                0 | 3 => true,
                1 => *number == 0,
                2 => *number > 0,
                _ => *number == 2,
            };
            let mine = || said.iter().filter(applies);
            let memory = mine().filter_map(|said| said.1).next_back().unwrap_or(1);
            let weight = mine().filter_map(|said| said.2).next_back().unwrap_or(256);
            let mount = mine().any(|said| said.3);
            prop_assert_eq!(sliver.resources.memory.mib(), memory);
            prop_assert_eq!(u64::from(sliver.resources.cpu_weight), weight);
            let paths: Vec<(&str, String)> =
                sliver.mounts.iter().map(|mount| (mount.path.as_str(), mount.writable.to_string())).collect();
            let mut expected = vec![("/", "local".to_owned()), ("/srv", "local".to_owned())];
            if mount {
                expected[1].1 = "none".to_owned();
                expected.push(("/new", "local".to_owned()));
            }
            prop_assert_eq!(paths, expected);
            prop_assert_eq!(sliver.mounts[1].layers.len(), 1);
            // What the patch does not speak of is as it was.
            prop_assert_eq!(sliver.resources.disk.map(|disk| disk.to_string()), Some("1GiB".to_owned()));
        }
    }
}
