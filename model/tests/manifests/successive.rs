//! Resolving commit after commit gives what resolving each by itself gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use xeno_model::manifest::{ParsedFile, parse_file};
use xeno_model::repository::FileMode;
use xeno_model::resolve::{Successive, is_manifest};

use crate::support::Repository;

/// A repository that is edited, and what was parsed of it.
struct Followed {
    repository: Repository,
    parsed: BTreeMap<(String, Vec<u8>), Arc<ParsedFile>>,
    resolving: Successive,
}

impl Followed {
    fn new() -> Self {
        let mut repository = Repository::default();
        repository.put("fleet.yaml", document("Fleet", "f", "{}"));
        repository.put("site.yaml", document("Site", "s", "{}"));
        for node in 0..3 {
            let file = format!("nodes/n{node}.yaml");
            repository.put(&file, node_text(node, 1024));
        }
        let channels = format!("{{ channels: {{ current: \"sha256:{}\" }} }}", "4".repeat(64));
        repository.put("templates.yaml", document("Template", "t", &channels));
        repository.put("content/a.txt", "a");
        repository.put("content/b/c.txt", "c");
        for slice in 0..4 {
            repository.put(
                &format!("slices/w{slice}.yaml"),
                slice_text(slice, &Wish::default()),
            );
        }
        Self {
            repository,
            parsed: BTreeMap::new(),
            resolving: Successive::default(),
        }
    }

    /// Resolves what is there in both ways.
    fn check(&mut self) -> bool {
        let manifests = self
            .repository
            .files
            .iter()
            .filter(|(path, (mode, _))| is_manifest(path) && *mode == FileMode::Regular);
        let files: Vec<Arc<ParsedFile>> = manifests
            .map(|(path, (_, bytes))| {
                let parsed = self.parsed.entry((path.clone(), bytes.clone()));
                Arc::clone(parsed.or_insert_with(|| Arc::new(parse_file(path, bytes))))
            })
            .collect();
        let successive = self.resolving.resolve(&files, &self.repository.tree());
        let whole = self.repository.resolve();
        assert_eq!(successive, whole);
        whole.is_ok()
    }
}

#[derive(Clone, Debug)]
struct Wish {
    memory: u32,
    state: &'static str,
    nodes: Vec<u32>,
    port: u16,
    from: &'static str,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            memory: 64,
            state: "running",
            nodes: vec![0, 1],
            port: 0,
            from: "content/a.txt",
        }
    }
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: xenoslice/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

fn node_text(node: u32, memory: u32) -> String {
    let spec = format!("{{ site: s, capacity: {{ memory: {memory}MiB, vcpus: 4 }} }}");
    document("Node", &format!("n{node}"), &spec)
}

fn slice_text(slice: u32, wish: &Wish) -> String {
    let nodes: Vec<String> = wish.nodes.iter().map(|node| format!("n{node}")).collect();
    let publish = match wish.port {
        0 => String::new(),
        port => format!(", publish: [{{ guest: 80, host: {port} }}]"),
    };
    let spec = format!(
        "{{ image: {{ kernel: t/current, mounts: [{{ path: /, layers: [{{ files: {{ /x: {{ from: {} }} }} }}, \
         {{ template: t/current }}], writable: local }}] }}, resources: {{ memory: {}MiB }}, placement: {{ nodes: [{}] }}, \
         state: {}{publish} }}",
        wish.from,
        wish.memory,
        nodes.join(", "),
        wish.state,
    );
    document("Slice", &format!("w{slice}"), &spec)
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        prop_oneof![Just(64_u32), Just(256), Just(512), Just(600)],
        prop_oneof![3 => Just("running"), 1 => Just("stopped"), 1 => Just("napping")],
        proptest::collection::vec(0..4_u32, 1..4),
        prop_oneof![Just(0_u16), Just(8080), Just(8081), Just(9000)],
        prop_oneof![
            4 => Just("content/a.txt"),
            2 => Just("content/b"),
            1 => Just("slices/w1.yaml"),
            1 => Just("content/none"),
        ],
    )
        .prop_map(|(memory, state, nodes, port, from)| Wish {
            memory,
            state,
            nodes,
            port,
            from,
        })
}

#[derive(Clone, Debug)]
enum Edit {
    /// These slices are in this file from now on.
    Slices(u32, Vec<(u32, Wish)>),
    /// A file is no longer there.
    Remove(&'static str),
    /// Its content is another.
    Content(&'static str, u8),
    Node(u32, u32),
    /// A file of a kind, or with an ending, that manifests may not have.
    Odd(&'static str, FileMode),
    /// Everything so far is taken back to how it began.
    Begin,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        8 => (0..5_u32, proptest::collection::vec((0..5_u32, wish()), 1..3))
            .prop_map(|(file, slices)| Edit::Slices(file, slices)),
        4 => (0..4_u32, wish()).prop_map(|(slice, wish)| Edit::Slices(slice, vec![(slice, wish)])),
        1 => prop_oneof![
            Just("slices/w0.yaml"), Just("slices/w2.yaml"), Just("content/a.txt"), Just("odd.yml"), Just("link.yaml"),
            Just("nodes/n2.yaml"),
        ].prop_map(Edit::Remove),
        2 => (prop_oneof![Just("content/a.txt"), Just("content/b/c.txt"), Just("content/b/d.txt"), Just("README")], 0..4_u8)
            .prop_map(|(path, content)| Edit::Content(path, content)),
        1 => (0..4_u32, prop_oneof![Just(512_u32), Just(1024)]).prop_map(|(node, memory)| Edit::Node(node, memory)),
        1 => prop_oneof![
            Just(("odd.yml", FileMode::Regular)), Just(("link.yaml", FileMode::Symlink)),
            Just(("content/a.txt", FileMode::Executable)),
        ].prop_map(|(path, mode)| Edit::Odd(path, mode)),
        2 => Just(Edit::Begin),
    ]
}

fn carry_out(repository: &mut Repository, edit: Edit) {
    match edit {
        Edit::Slices(file, slices) => {
            let texts = slices.iter().map(|(slice, wish)| slice_text(*slice, wish));
            repository.put(&format!("slices/w{file}.yaml"), texts.collect::<String>());
        }
        Edit::Remove(path) => drop(repository.files.remove(path)),
        Edit::Content(path, content) => repository.put(path, vec![b'a' + content]),
        Edit::Node(node, memory) => repository.put(&format!("nodes/n{node}.yaml"), node_text(node, memory)),
        Edit::Odd(path, mode) => {
            repository.files.insert(path.to_owned(), (mode, b"odd".to_vec()));
        }
        Edit::Begin => *repository = Followed::new().repository,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn commit_after_commit_and_each_by_itself_give_the_same(
        edits in proptest::collection::vec(edit(), 1..12),
    ) {
        let mut followed = Followed::new();
        prop_assert!(followed.check());
        for edit in edits {
            carry_out(&mut followed.repository, edit);
            followed.check();
        }
    }
}

#[test]
fn a_push_of_one_slice_resolves_one_slice() {
    let mut followed = Followed::new();
    assert!(followed.check());
    assert_eq!(followed.resolving.resolved(), 4);
    let bigger = Wish {
        memory: 128,
        ..Wish::default()
    };
    followed.repository.put("slices/w2.yaml", slice_text(2, &bigger));
    assert!(followed.check());
    assert_eq!(followed.resolving.resolved(), 1);
    // Nothing carries this.
    followed.repository.put("README", "x");
    assert!(followed.check());
    assert_eq!(followed.resolving.resolved(), 0);
    // Every slice carries this.
    followed.repository.put("content/a.txt", "b");
    assert!(followed.check());
    assert_eq!(followed.resolving.resolved(), 4);
}

#[test]
fn what_slices_take_from_each_other_is_found() {
    let check = |wish: Wish| {
        let mut followed = Followed::new();
        assert!(followed.check());
        followed.repository.put("slices/w3.yaml", slice_text(3, &wish));
        assert!(!followed.check(), "{wish:?}");
        followed
            .repository
            .put("slices/w3.yaml", slice_text(3, &Wish::default()));
        assert!(followed.check());
    };
    check(Wish {
        memory: 1000,
        ..Wish::default()
    });
    check(Wish {
        nodes: vec![7],
        ..Wish::default()
    });
    let mut followed = Followed::new();
    let port = Wish {
        port: 8080,
        ..Wish::default()
    };
    followed.repository.put("slices/w0.yaml", slice_text(0, &port));
    assert!(followed.check());
    followed.repository.put("slices/w1.yaml", slice_text(1, &port));
    assert!(!followed.check());
}
