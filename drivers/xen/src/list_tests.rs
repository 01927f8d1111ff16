use super::*;

fn uuid(text: &str) -> DomainUuid {
    DomainUuid::parse(text).unwrap()
}

#[test]
fn a_listing_shows_every_domain_and_what_it_does() {
    let all = read_list(include_str!("fixtures/list-v-4.17.txt")).unwrap();
    let names: Vec<_> = all
        .iter()
        .map(|d| (d.name.as_str(), d.domid, d.memory_mib, d.vcpus))
        .collect();
    assert_eq!(
        names,
        [("Domain-0", 0, 512, 1), ("ram", 3, 96, 1), ("nfsroot", 5, 96, 1)]
    );
    assert_eq!(all[1].uuid, uuid("6074c55a-0f27-44f4-90bd-863c44e67e8b"));
    assert_eq!(all[0].flags, Flags::default());
    assert!(all[1].flags.paused && all[1].flags.shutdown.is_none());

    let all = read_list(include_str!("fixtures/list-v-crashed-4.17.txt")).unwrap();
    assert_eq!(all[1].flags.shutdown, Some(Stopped::Crash));
}

#[test]
fn names_and_labels_may_hold_anything() {
    let all = read_list(include_str!("fixtures/list-v-numa.txt")).unwrap();
    assert_eq!(all[1].name, "a name with 7 words and 0 sense");
    assert_eq!((all[1].domid, all[1].memory_mib, all[1].vcpus), (6, 4096, 4));
    assert_eq!(all[2].name, "(null)");
    assert!(all[2].flags.dying);
    assert_eq!(all[2].flags.shutdown, Some(Stopped::Poweroff));
}

#[test]
fn flags_are_read_strictly() {
    let shutdown = |letters: &str| Flags::read(letters).unwrap().shutdown;
    assert_eq!(shutdown("---s--"), Some(Stopped::Poweroff));
    assert_eq!(shutdown("---sr-"), Some(Stopped::Reboot));
    assert_eq!(shutdown("---ss-"), Some(Stopped::Suspend));
    assert_eq!(shutdown("---sw-"), Some(Stopped::Crash));
    assert_eq!(shutdown("---s?-"), Some(Stopped::Other));
    assert_eq!(shutdown("rb----"), None);
    for wrong in ["", "-----", "-------", "x-----", "r----x", "pppppp"] {
        assert_eq!(Flags::read(wrong), None, "{wrong}");
    }
}

/// A domain that is overlooked would be started twice.
#[test]
fn a_line_that_cannot_be_read_is_an_error_and_no_absence() {
    let good = include_str!("fixtures/list-v-4.17.txt");
    for (from, to) in [
        ("--p---", "--p--"),
        ("6074c55a-", "6074c55a"),
        ("13.8", "then"),
        ("ram ", "    "),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(matches!(read_list(&bad), Err(ListError::Line(_))), "{to}");
    }
    let gone: String = good
        .lines()
        .filter(|line| !line.starts_with("Domain-0"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(read_list(&gone), Err(ListError::NoDom0));
    assert_eq!(read_list(""), Err(ListError::NoDom0));
}

#[test]
fn what_a_domain_may_use_is_read_from_all_versions() {
    let recorded = read_allowed(include_str!("fixtures/list-l-4.17.json")).unwrap();
    let full = Allowed {
        uuid: Some(uuid("6074c55a-0f27-44f4-90bd-863c44e67e8b")),
        memory_max_kib: Some(131_072),
        memory_target_kib: Some(98_304),
        vcpus_max: Some(1),
        weight: Some(512),
        cap: Some(50),
    };
    assert_eq!(recorded[&3], full);
    assert_eq!(recorded[&0].uuid, None);

    let older = read_allowed(include_str!("fixtures/list-l-4.14.json")).unwrap();
    let unset = Allowed {
        weight: None,
        cap: None,
        ..full.clone()
    };
    assert_eq!(older[&3], unset);
    let newer = read_allowed(include_str!("fixtures/list-l-4.20.json")).unwrap();
    assert_eq!(newer[&3], Allowed { cap: None, ..full });

    assert!(read_allowed("").unwrap().is_empty());
    assert!(read_allowed("[]").unwrap().is_empty());
    assert!(read_allowed("[{\"domid\": 4}]").unwrap().contains_key(&4));
    for wrong in ["{", "[{}]", "[{\"domid\": -1}]", "[] []"] {
        assert!(matches!(read_allowed(wrong), Err(ListError::Json(_))), "{wrong}");
    }
}

#[test]
fn the_node_says_what_it_can_do() {
    let info = NodeInfo::read(include_str!("fixtures/info-4.17.txt"));
    assert_eq!(info.get("xen_version"), Some("4.17.7"));
    assert_eq!(info.get("xen_scheduler"), Some("credit2"));
    assert!(info.free_mib().is_some());
    // Without NPT or shadow pages nothing maps the memory of such a guest.
    assert!(info.runs_pv() && !info.runs_pvh());
    let caps = |caps: &str| NodeInfo::read(&format!("virt_caps : {caps}\n"));
    assert!(caps("pv hvm hap gnttab-v1").runs_pvh());
    assert!(caps("hvm shadow").runs_pvh() && !caps("hvm shadow").runs_pv());
    assert!(!caps("pv").runs_pvh());
    assert_eq!(NodeInfo::read("no colon\n:\nempty:\n").get("empty"), None);
}
