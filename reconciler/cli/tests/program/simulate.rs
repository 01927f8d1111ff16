//! What a push would do, told by the program: the same for the same seed, and with the command that repeats what does not hold.

use crate::world::{Said, World};

/// A fleet of three nodes at two sites, and a commit that gives `web` another memory, wave by wave.
fn a_rollout() -> World {
    let world = World::with_hook();
    world.edit(
        "work/sites/home.yaml",
        "---",
        "---\napiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: away }\n---\napiVersion: xenoslice/v1\nkind: Node\n\
         metadata: { name: node-b }\nspec: { site: away, capacity: { memory: 1GiB, vcpus: 1 } }\n---\n\
         apiVersion: xenoslice/v1\nkind: Node\nmetadata: { name: node-c }\nspec: { site: home, capacity: { memory: 1GiB, vcpus: 1 } }\n---",
    );
    world.edit(
        "work/slices/web.yaml",
        "nodes: [node-a]",
        "nodes: [node-a, node-b, node-c]",
    );
    world.edit(
        "work/slices/web.yaml",
        "spec:",
        "spec:\n  rollout: { canary: 1, waves: [{ match: { site: home } }], bake: 10s }",
    );
    world.commit("three nodes");
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.commit("more");
    world
}

fn simulate(world: &World, words: &[&str]) -> Said {
    world.xeno("work", &[&["simulate"], words].concat())
}

fn check(world: &World, words: &[&str], parts: &[&str]) -> Said {
    let said = simulate(world, words);
    assert_eq!(
        (said.code, said.err.as_str()),
        (Some(0), ""),
        "{words:?}: {said:?}"
    );
    for part in parts {
        assert!(said.out.contains(part), "{words:?}: no {part:?} in\n{}", said.out);
    }
    said
}

#[test]
fn a_push_of_a_repository_is_played_through() {
    let world = a_rollout();
    let words = ["--repo", ".", "--rev", "HEAD~1..HEAD"];
    let said = check(
        &world,
        &words,
        &[
            "3 slivers on 3 nodes at 2 sites; seed 1",
            "touches 3 slivers on 3 nodes",
            "slivers: 3 reboot",
            "SLICE  SLIVERS  FAILED    CANARY    WAVE 2    WAVE 3       END  OUTCOME",
            "done",
            "nothing that must not be in",
        ],
    );
    // From the directory around it, and from the first parent, it is the same push.
    assert_eq!(check(&world, &["--rev", "HEAD"], &[]).out, said.out);

    let bad = [&words[..], &["--bad", "web", "-o", "json"]].concat();
    let said = check(&world, &bad, &[]);
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((&json["formatVersion"], &json["seed"]), (&1.into(), &1.into()));
    let web = &json["rollouts"][0];
    assert_eq!(
        (&web["slice"], &web["slivers"], &web["failed"]),
        (&"web".into(), &3.into(), &1.into())
    );
    assert_eq!(web["outcome"], "failed, goes back", "{web}");
    assert!(json["reached"]["goes back"].as_u64() > Some(0), "{json}");
}

#[test]
fn equal_seeds_give_equal_bytes() {
    let world = World::new();
    let told = |seed: &str, name: &str| {
        let words = [
            "simulate",
            "--nodes",
            "6",
            "--away",
            "20",
            "--faults",
            "--reached",
        ];
        let svg = ["--seed", seed, "--svg", name];
        let said = world.xeno(".", &[&words[..], &svg].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        let picture = std::fs::read_to_string(world.path(name)).expect("a picture");
        (said.out, picture)
    };
    let (said, picture) = told("7", "a.svg");
    let again = told("7", "b.svg");
    assert_eq!(said, again.0);
    assert!(picture == again.1);
    let (other, drawn) = told("8", "c.svg");
    assert!(said != other && picture != drawn);
    for part in [
        "60 slivers on 6 nodes at 2 sites; seed 7",
        "push",
        "reached:",
        "node away",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    assert!(picture.contains("out of reach"), "{picture}");
}

#[test]
fn many_seeds_are_told_one_after_the_other() {
    let world = World::new();
    let said = world.xeno(".", &["simulate", "--random", "2", "--seed", "5"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("2 seeds, "), "{}", said.out);
    let said = world.xeno(".", &["simulate", "--random", "2", "--seed", "5", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((&json["seed"], &json["seeds"]), (&5.into(), &2.into()));
}

#[test]
fn what_does_not_come_to_its_end_says_how_to_repeat_it() {
    let world = a_rollout();
    // One minute a week is enough for one wave: the next begins a week later.
    for site in ["home", "away"] {
        let name = format!("metadata: {{ name: {site} }}\n");
        let window =
            "spec: { policy: { maintenance: [{ days: [sun], from: \"03:00\", until: \"03:01\" }] } }\n";
        world.edit("work/sites/home.yaml", &name, &format!("{name}{window}"));
    }
    world.edit("work/slices/web.yaml", "bake: 10s", "bake: 5m");
    world.commit("a minute a week");
    world.edit("work/slices/web.yaml", "vcpus: 2", "vcpus: 1");
    world.commit("less");
    let said = simulate(&world, &["--rev", "HEAD~1..HEAD", "--away", "1", "--seed", "9"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    for part in [
        "seed 9: after ",
        "again: xeno simulate --seed 9 --rev HEAD~1..HEAD --away 1",
    ] {
        assert!(said.err.contains(part), "no {part:?} in\n{}", said.err);
    }
}

#[test]
fn what_waits_for_approval_is_approved_by_a_person() {
    let world = a_rollout();
    world.edit(
        "work/fleet.yaml",
        "  deleteBudget",
        "  approval: interrupts\n  deleteBudget",
    );
    world.commit("careful");
    world.edit("work/slices/web.yaml", "vcpus: 2", "vcpus: 1");
    world.commit("less");
    let approved = "approvals: a person has approved 3 changes";
    check(
        &world,
        &["--rev", "HEAD~1..HEAD"],
        &[approved, "slivers: 3 reboot", "done"],
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = a_rollout();
    for (words, part) in [
        (&["--rev", "HEAD", "--nodes", "3"][..], "cannot be used with"),
        (&["--rev", "HEAD", "--bad", "wob"], "no commit has a slice `wob`"),
        (&["--rev", "nowhere"], "nowhere"),
        (&["--random", "2", "--svg", "x.svg"], "cannot be used with"),
    ] {
        let said = simulate(&world, words);
        assert!(
            said.code != Some(0) && said.err.contains(part),
            "{words:?}: {said:?}"
        );
    }
}

/// The picture of the README is what the command draws that the manual names.
#[test]
fn the_picture_of_the_documents_is_what_the_program_draws() {
    let world = World::new();
    let words = PICTURE.split_whitespace().skip(1);
    let words: Vec<&str> = words.collect();
    let said = world.xeno(".", &words);
    assert_eq!(said.code, Some(0), "{said:?}");
    let drawn = std::fs::read_to_string(world.path("simulated.svg")).expect("a picture");
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let kept = std::fs::read_to_string(docs.join("simulated.svg")).expect("a picture");
    assert!(drawn == kept, "docs/simulated.svg is not what `{PICTURE}` draws");
    assert!(kept.len() < 60_000, "{}", kept.len());
    let manual = std::fs::read_to_string(docs.join("manual.md")).expect("the manual");
    assert!(manual.contains(&format!("$ {PICTURE}\n")), "{PICTURE}");
}

const PICTURE: &str = "xeno simulate --nodes 30 --away 10 --seed 3 --svg simulated.svg";
