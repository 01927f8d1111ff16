use std::collections::BTreeMap;

use proptest::prelude::*;
use xeno_model::id::{Digest, DomainUuid};
use xeno_model::observed::Limits;
use xeno_reconciler::ports::GuestMount;

use super::*;

fn wire() -> Wire {
    Wire {
        link: GuestLink::of(DomainUuid([7; 16])),
        script: "vif-xeno".into(),
    }
}

fn mount(path: &str, export: &str) -> GuestMount {
    GuestMount {
        path: path.into(),
        export: export.into(),
        socket: "/unused".into(),
    }
}

fn spec() -> DomainSpec {
    DomainSpec {
        sliver: SliverId::parse("web/0").unwrap(),
        uuid: DomainUuid([7; 16]),
        boot: Digest::of(b"boot"),
        vcpus: 2,
        vcpus_max: 4,
        memory_mib: 128,
        memory_max_mib: 256,
        limits: Limits {
            cpu_weight: 512,
            cpu_cap_percent: Some(50),
            net_rate: Some(BitRate(10_000_000)),
        },
        kernel: "/t/vmlinuz".into(),
        initramfs: "/t/initramfs".into(),
        cmdline: vec!["quiet".into(), "xeno.init=/sbin/init".into()],
        mounts: vec![mount("/", "/web-0.0"), mount("/var/log x", "/web-0.1")],
        publish: vec![],
        addresses: vec![],
    }
}

fn rendered(spec: &DomainSpec) -> Result<String, SpecError> {
    render(spec, GuestKind::Pv, Path::new("/k/vmlinux"), &wire())
}

#[test]
fn a_specification_becomes_a_configuration() {
    let expected = r#"# Written anew by the agent at each start.
name = "xeno.web-0"
uuid = "07070707-0707-0707-0707-070707070707"
type = "pv"
kernel = "/k/vmlinux"
ramdisk = "/t/initramfs"
cmdline = "console=hvc0 panic=5 xeno.hostname=web-0 systemd.hostname=web-0 xeno.addr=100.76.216.141/32 xeno.gateway=169.254.1.1 xeno.server=fe80%3A%3A1%25eth0 xeno.export=/web-0.0 xeno.mount=/var/log%20x:/web-0.1 quiet xeno.init=/sbin/init"
memory = 128
maxmem = 256
vcpus = 2
maxvcpus = 4
cpu_weight = 512
cap = 50
vif = [ "mac=00:16:3e:54:89:92,script=vif-xeno,rate=10000000b/s@50000us" ]
on_poweroff = "destroy"
on_reboot = "destroy"
on_watchdog = "destroy"
on_crash = "destroy"
on_soft_reset = "destroy"
"#;
    assert_eq!(rendered(&spec()).unwrap(), expected);
}

#[test]
fn what_has_no_safe_form_is_refused() {
    let check = |change: fn(&mut DomainSpec), words: &str| {
        let mut spec = spec();
        change(&mut spec);
        let error = rendered(&spec).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    check(|s| s.vcpus = 0, "vcpus is 0");
    check(|s| s.vcpus_max = 1, "vcpus_max is 1, outside 2");
    check(|s| s.memory_mib = 8, "memory_mib is 8");
    check(|s| s.memory_max_mib = 127, "memory_max_mib is 127, outside 128");
    check(|s| s.limits.cpu_weight = 65_536, "the CPU weight is 65536");
    check(|s| s.limits.cpu_cap_percent = Some(0), "the CPU cap is 0");
    check(
        |s| s.initramfs = "relative".into(),
        "the initramfs relative must be absolute",
    );
    check(|s| s.initramfs = "/a\nname = \"x\"".into(), "the initramfs");
    check(|s| s.cmdline = vec!["two words".into()], "without spaces");
    check(|s| s.cmdline = vec!["a\"b".into()], "double quotes");
    check(|s| s.cmdline = vec!["--".into()], "would not reach");
    check(
        |s| s.cmdline = vec!["xeno.export=/other".into()],
        "the driver sets it",
    );
    check(|s| s.cmdline = vec!["x".repeat(1000)], "more than 1023");
    check(
        |s| s.mounts = vec![mount("/srv", "/web-0.0")],
        "the first mount is \"/srv\"",
    );
    check(|s| s.publish = vec![Publish { guest: 80, host: 0 }], "port 0");
    check(
        |s| s.publish = vec![Publish { guest: 80, host: 1 }; 2],
        "host port 1 is published twice",
    );
    let hostile = Wire {
        script: "x,backend=1".into(),
        ..wire()
    };
    let error = render(&spec(), GuestKind::Pv, Path::new("/k"), &hostile).unwrap_err();
    assert!(error.to_string().contains("the hotplug script"), "{error}");
}

#[test]
fn a_pvh_guest_differs_in_its_type_alone() {
    let pv = rendered(&spec()).unwrap();
    let pvh = render(&spec(), GuestKind::Pvh, Path::new("/k/vmlinux"), &wire()).unwrap();
    assert_eq!(pvh, pv.replace("type = \"pv\"", "type = \"pvh\""));
    assert_ne!(pvh, pv);
}

#[test]
fn a_longer_command_line_reaches_a_pvh_guest() {
    let mut spec = spec();
    spec.cmdline = vec!["x".repeat(1000)];
    render(&spec, GuestKind::Pvh, Path::new("/k/vmlinux"), &wire()).unwrap();
}

#[test]
fn names_lead_back_to_slivers_and_names_of_others_do_not() {
    for sliver in ["web/0", "a-b/17", "web/0b"] {
        let sliver = SliverId::parse_embodiment(sliver).unwrap();
        assert_eq!(sliver_of(&name_of(&sliver)), Some(sliver));
    }
    for name in [
        "web-0",
        "xeno.web",
        "xeno.web-00",
        "xeno.web-0--incoming",
        "xeno.web-0--migratedaway",
        "xeno.",
    ] {
        assert_eq!(sliver_of(name), None, "{name}");
    }
}

#[test]
fn rates_are_counted_as_libxl_counts_them() {
    // libxl: 10 Mbit/s are 1,250,000 bytes a second and 62,500 in 50 ms.
    assert_eq!(credit(BitRate(10_000_000)), "62500,50000");
    assert_eq!(credit(BitRate(1)), "1,50000");
    assert_eq!(rate_of("62500,50000"), Some(BitRate(10_000_000)));
    for garbage in ["", "1", "x,y", "1,", ",1", "-1,5"] {
        assert_eq!(rate_of(garbage), None, "{garbage}");
    }
    assert_eq!(rate_of("18446744073709551615,0"), Some(BitRate(u64::MAX)));
}

/// Reads a configuration as xl does (`libxlu_cfg_l.l`, `xlu__cfgl_dequote`): values are numbers, quoted strings, and
/// lists of quoted strings. Anything else is an error here.
fn read_as_xl(text: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut settings = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line
            .split_once(" = ")
            .ok_or_else(|| format!("no setting: {line:?}"))?;
        let inner = value
            .strip_prefix("[ ")
            .and_then(|value| value.strip_suffix(" ]"));
        let value = match inner.unwrap_or(value) {
            number if number.bytes().all(|b| b.is_ascii_digit()) => number.to_owned(),
            string => dequote(string)?,
        };
        if settings.insert(key.to_owned(), vec![value]).is_some() {
            return Err(format!("{key} is set twice"));
        }
    }
    Ok(settings)
}

fn dequote(text: &str) -> Result<String, String> {
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .ok_or("no string")?;
    let mut bytes = inner.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' | b'\n' => return Err("the string ends early".into()),
            b'\\' => match bytes.next() {
                Some(byte @ (b'"' | b'\\' | b'\'')) => out.push(byte),
                Some(b'x') => {
                    let digits = [bytes.next(), bytes.next()].map(|digit| digit.unwrap_or(b'?'));
                    let digits = std::str::from_utf8(&digits).map_err(|error| error.to_string())?;
                    out.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                }
                other => return Err(format!("an escape {other:?}")),
            },
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|error| error.to_string())
}

proptest! {
    #[test]
    fn whatever_is_quoted_is_read_as_itself(text in any::<String>()) {
        let quoted = quoted(&text);
        prop_assert!(quoted.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        prop_assert_eq!(dequote(&quoted).unwrap(), text);
    }

    /// Nothing that a specification says can become a setting of its own.
    #[test]
    fn hostile_words_stay_in_their_place(
        word in "[!-~]{1,40}",
        path in "[ -~\\n\\t\u{e4}\u{0}]{0,40}",
        export in "[ -~\\n]{0,30}",
        file in "/[ -~\\n\"\\\\]{0,30}",
    ) {
        let mut hostile = spec();
        hostile.cmdline = vec![word.clone()];
        hostile.mounts = vec![mount("/", &format!("/{export}")), mount(&format!("/{path}"), "/web-0.1")];
        hostile.initramfs = PathBuf::from(&file);
        let Ok(text) = rendered(&hostile) else { return Ok(()) };
        let settings = read_as_xl(&text).unwrap();
        let plain = read_as_xl(&rendered(&spec()).unwrap()).unwrap();
        prop_assert_eq!(settings.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
        prop_assert_eq!(&settings["ramdisk"][0], &file);
        let words: Vec<_> = settings["cmdline"][0].split(' ').collect();
        prop_assert_eq!(words.len(), 10, "{:?}", words);
        prop_assert_eq!(words[9], word);
        for (key, value) in &plain {
            if !["ramdisk", "cmdline"].contains(&key.as_str()) {
                prop_assert_eq!(&settings[key], value);
            }
        }
    }
}
