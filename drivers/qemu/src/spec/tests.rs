//! The arguments, word for word, and what is refused.

use super::*;
use xeno_model::id::{Digest, DomainUuid, SliverId};
use xeno_model::observed::Limits;
use xeno_reconciler::ports::GuestMount;

fn spec() -> DomainSpec {
    let mount = |path: &str, socket: &str| GuestMount {
        path: path.into(),
        export: "/web-0.0".into(),
        socket: socket.into(),
    };
    DomainSpec {
        sliver: SliverId::parse("web/0").unwrap(),
        uuid: DomainUuid([0x8a; 16]),
        boot: Digest::of(b""),
        vcpus: 2,
        vcpus_max: 2,
        memory_mib: 192,
        memory_max_mib: 256,
        limits: Limits::default(),
        kernel: "/t/vmlinuz".into(),
        initramfs: "/t/initramfs".into(),
        cmdline: vec!["quiet".into(), "xeno.run=a%20b".into()],
        mounts: vec![mount("/", "/run/w0-0.sock"), mount("/var/log", "/run/w0-1.sock")],
        addresses: vec![],
        publish: vec![
            Publish {
                guest: 80,
                host: 8080,
            },
            Publish {
                guest: 443,
                host: 8443,
            },
        ],
    }
}

fn of(spec: &DomainSpec) -> Result<Vec<String>, SpecError> {
    let dir = RunDir::of(Path::new("/s"), &spec.sliver);
    arguments(spec, &dir, Accel::Tcg, Path::new("/usr/bin/xeno"), Begin::Boot)
}

/// The whole command, an option a line.
#[test]
fn the_arguments_are_these() {
    let lines = of(&spec()).unwrap().join(" ").replace(" -", "\n-");
    let expected = "\
-nodefaults
-no-user-config
-display none
-name guest=xeno-web-0,debug-threads=on
-uuid 8a8a8a8a-8a8a-8a8a-8a8a-8a8a8a8a8a8a
-pidfile /s/web-0/pid
-machine pc,usb=off,vmport=off,dump-guest-core=off
-accel tcg,thread=multi
-cpu max
-smp 2
-m 256M
-kernel /t/vmlinuz
-initrd /t/initramfs
-append console=ttyS0 panic=5 xeno.hostname=web-0 systemd.hostname=web-0 xeno.addr=10.0.2.15/24 \
xeno.server=10.0.2.100 xeno.export=/ xeno.mount=/var/log:10.0.2.101:/ quiet xeno.run=a%20b
-no-reboot
-action panic=pause
-chardev socket,id=con,path=/s/web-0/console.sock,server=on,wait=off,logfile=/s/web-0/console.log,logappend=on
-serial chardev:con
-chardev socket,id=qmp,path=/s/web-0/qmp.sock,server=on,wait=off
-mon chardev=qmp,mode=control
-netdev user,id=n0,ipv6=off,restrict=on,\
guestfwd=tcp:10.0.2.100:2049-cmd:/usr/bin/xeno guestfwd /run/w0-0.sock,\
guestfwd=tcp:10.0.2.101:2049-cmd:/usr/bin/xeno guestfwd /run/w0-1.sock,\
hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80,hostfwd=tcp:127.0.0.1:8443-10.0.2.15:443
-device virtio-net-pci,netdev=n0,romfile=
-object rng-builtin,id=rng0
-device virtio-rng-pci,rng=rng0
-device virtio-balloon-pci,deflate-on-oom=on
-device pvpanic-pci
-sandbox on,obsolete=deny
-msg timestamp=on";
    assert_eq!(lines, expected);
}

#[test]
fn kvm_changes_only_accelerator_and_cpu() {
    let dir = RunDir::of(Path::new("/s"), &spec().sliver);
    let kvm = arguments(&spec(), &dir, Accel::Kvm, Path::new("/usr/bin/xeno"), Begin::Boot).unwrap();
    let tcg = of(&spec()).unwrap();
    let differ: Vec<_> = kvm.iter().zip(&tcg).filter(|(kvm, tcg)| kvm != tcg).collect();
    assert_eq!(
        differ,
        [
            (&"kvm".into(), &"tcg,thread=multi".into()),
            (&"host".into(), &"max".to_owned())
        ]
    );
    assert_eq!(kvm.len(), tcg.len());
}

#[test]
fn a_domain_from_an_image_has_the_same_devices() {
    let dir = RunDir::of(Path::new("/s"), &spec().sliver);
    let begin = Begin::Image {
        machine: "pc-i440fx-7.2",
        memory_max_mib: 512,
    };
    let resumed = arguments(&spec(), &dir, Accel::Tcg, Path::new("/usr/bin/xeno"), begin).unwrap();
    let booted = of(&spec()).unwrap();
    let differ: Vec<_> = resumed
        .iter()
        .zip(&booted)
        .filter(|(now, then)| now != then)
        .collect();
    assert_eq!(
        differ,
        [
            (
                &"pc-i440fx-7.2,usb=off,vmport=off,dump-guest-core=off".into(),
                &"pc,usb=off,vmport=off,dump-guest-core=off".into()
            ),
            (&"512M".into(), &"256M".to_owned())
        ]
    );
    assert_eq!(resumed[booted.len()..], ["-incoming", "defer", "-S"]);
}

#[test]
fn a_copy_has_the_same_devices_and_no_ports() {
    let dir = RunDir::of(Path::new("/s"), &spec().sliver);
    let (machine, memory_max_mib) = ("pc-i440fx-7.2", 512);
    let of = |begin| arguments(&spec(), &dir, Accel::Tcg, Path::new("/usr/bin/xeno"), begin).unwrap();
    let copy = of(Begin::Copy {
        machine,
        memory_max_mib,
    });
    let resumed = of(Begin::Image {
        machine,
        memory_max_mib,
    });
    let ports = ",hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80,hostfwd=tcp:127.0.0.1:8443-10.0.2.15:443";
    let without: Vec<_> = resumed.iter().map(|arg| arg.replace(ports, "")).collect();
    assert_ne!(without, resumed);
    assert_eq!(copy, without);
}

/// Breaks one thing in the specification and expects these words in the refusal.
fn check(broken: impl FnOnce(&mut DomainSpec), words: &str) {
    let mut spec = spec();
    broken(&mut spec);
    let error = of(&spec).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn what_could_mean_something_else_to_qemu_is_refused() {
    check(
        |spec| spec.kernel = "/a,b".into(),
        "the kernel /a,b must be absolute",
    );
    check(
        |spec| spec.initramfs = "relative".into(),
        "the initramfs relative must be absolute",
    );
    check(
        |spec| spec.mounts[1].socket = "/a b".into(),
        "an export's socket /a b must be",
    );
    check(
        |spec| spec.mounts[1].socket = "/a;sh".into(),
        "an export's socket",
    );
    check(
        |spec| spec.mounts[1].socket = "/a',restrict=off".into(),
        "an export's socket",
    );
    check(|spec| spec.mounts[1].path = "var".into(), "the mount point var");
    check(
        |spec| spec.mounts[0].path = "/srv".into(),
        "the first mount is \"/srv\"",
    );
}

#[test]
fn words_cannot_smuggle_words() {
    for word in ["", "a b", "a\nb", "a\"b", "ä", "a\0"] {
        check(|spec| spec.cmdline.push(word.into()), "printable ASCII");
    }
    for word in [
        "xeno.server=10.0.2.2",
        "xeno.mount=/etc:10.0.2.101:/",
        "console=tty0",
    ] {
        check(|spec| spec.cmdline.push(word.into()), "the driver sets it");
    }
    check(
        |spec| spec.cmdline.push("--".into()),
        "would not reach the kernel",
    );
    check(
        |spec| spec.cmdline.push("x".repeat(CMDLINE_LEN_MAX)),
        "more than 2047",
    );
}

#[test]
fn a_hostile_mount_point_stays_one_word() {
    let mut spec = spec();
    spec.mounts[1].path = "/a b:c%,\n\"ä".into();
    let args = of(&spec).unwrap();
    let line = args.iter().find(|arg| arg.contains("xeno.mount=")).unwrap();
    assert!(
        line.contains(" xeno.mount=/a%20b%3Ac%25,%0A%22%C3%A4:10.0.2.101:/ "),
        "{line}"
    );
}

#[test]
fn numbers_have_bounds() {
    check(|spec| spec.vcpus = 0, "vcpus is 0, outside 1 to 255");
    check(|spec| spec.memory_max_mib = u64::MAX, "memory_max_mib is");
    check(
        |spec| spec.mounts = vec![spec.mounts[0].clone(); MOUNTS_MAX + 1],
        "number of mounts is 33",
    );
    check(
        |spec| spec.publish[1].host = 8080,
        "host port 8080 is published twice",
    );
    check(|spec| spec.publish[1].guest = 0, "port 0 cannot be published");
}
