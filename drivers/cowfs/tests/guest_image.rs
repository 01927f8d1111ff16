//! The initramfs: which modules it takes and that it is the same each time.

use std::fs;
use std::path::Path;

use cowfs::guest::{
    Compression, GuestError, GuestNetwork, GuestOptions, ModulesError, build_initramfs, kernel_arguments,
};
use cowfs::template::Boot;

/// A module directory with these lines in `modules.dep`; every module holds its own path.
fn modules(root: &Path, dep: &str, builtin: &str) {
    fs::create_dir_all(root).expect("mkdir");
    fs::write(root.join("modules.dep"), dep).expect("write");
    fs::write(root.join("modules.builtin"), builtin).expect("write");
    for file in dep.lines().filter_map(|line| line.split(':').next()) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("below the root")).expect("mkdir");
        let _ = fs::write(path, file);
    }
}

fn build(dep: &str, builtin: &str) -> Result<Vec<u8>, GuestError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    modules(&dir.path().join("modules"), dep, builtin);
    fs::write(dir.path().join("busybox"), "busybox").expect("write");
    build_initramfs(&GuestOptions {
        modules: dir.path().join("modules"),
        busybox: dir.path().join("busybox"),
        compression: Compression::None,
    })
}

/// The loading order in an uncompressed image.
fn order(image: &[u8]) -> Vec<String> {
    let name = b"modules/order\0";
    let at = image
        .windows(name.len())
        .position(|window| window == name)
        .expect("the list is there");
    let start = (at + name.len()).next_multiple_of(4);
    let text: Vec<u8> = image[start..]
        .iter()
        .copied()
        .take_while(|&byte| byte != 0)
        .collect();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split("0707")
        .next()
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

const DEP: &str = "kernel/net/sunrpc/sunrpc.ko:
kernel/fs/lockd/lockd.ko: kernel/net/sunrpc/sunrpc.ko
kernel/fs/nfs/nfs.ko: kernel/fs/lockd/lockd.ko kernel/net/sunrpc/sunrpc.ko
kernel/fs/nfs/nfsv3.ko: kernel/fs/nfs/nfs.ko kernel/fs/lockd/lockd.ko kernel/net/sunrpc/sunrpc.ko
kernel/drivers/virtio/virtio_pci.ko:
kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/xen-netfront.ko:
kernel/sound/loud.ko:
";

#[test]
fn takes_what_is_needed_after_what_it_needs() {
    let image = build(DEP, "").expect("a complete set");
    assert_eq!(
        order(&image),
        [
            "virtio_pci.ko",
            "failover.ko",
            "virtio_net.ko",
            "sunrpc.ko",
            "lockd.ko",
            "nfs.ko",
            "nfsv3.ko",
            "xen_netfront.ko",
        ]
    );
    assert_eq!(build(DEP, "").expect("a complete set"), image);
}

#[test]
fn built_in_modules_need_no_file() {
    let without = DEP.replace("kernel/drivers/virtio/virtio_pci.ko:\n", "");
    let missing = build(&without, "").expect_err("nothing to find the disk's bus with");
    assert!(
        matches!(missing, GuestError::Modules(ModulesError::Missing { ref name, .. }) if name == "virtio_pci")
    );
    let image = build(&without, "kernel/drivers/virtio/virtio_pci.ko\n").expect("built in");
    assert_eq!(order(&image)[0], "failover.ko");
}

#[test]
fn lists_that_make_no_sense_are_refused() {
    let check = |line: &str| {
        let error = build(&format!("{DEP}{line}\n"), "").expect_err(line);
        assert!(matches!(error, GuestError::Modules(_)), "{line}: {error}");
    };
    check("no colon");
    check("../../../etc/shadow:");
    check("/etc/shadow:");
    check("kernel/a/button.ko: kernel/a/absent.ko");
    // Modules that need each other are loaded in some order rather than for ever.
    let circle = format!("{DEP}kernel/button.ko: kernel/evdev.ko\nkernel/evdev.ko: kernel/button.ko\n");
    assert_eq!(order(&build(&circle, "").expect("it ends")).len(), 10);
}

#[test]
fn a_busybox_that_needs_libraries_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    modules(dir.path(), DEP, "");
    let options = GuestOptions {
        modules: dir.path().to_owned(),
        // This very program is linked dynamically, as Rust's are by default.
        busybox: std::env::current_exe().expect("we run"),
        compression: Compression::Gzip,
    };
    assert!(matches!(build_initramfs(&options), Err(GuestError::NotStatic(_))));
}

#[test]
fn arguments_survive_the_kernel_command_line() {
    let network = GuestNetwork {
        address: "10.0.2.15/24".to_owned(),
        gateway: None,
        server: "10.0.2.100".to_owned(),
        port: 2049,
        export: "/web/0".to_owned(),
        mounts: vec![("/var/log".to_owned(), "/web/0:logs".to_owned())],
        hostname: "web-0".to_owned(),
    };
    let small = Boot::Small {
        run: "echo \"50 %\"; a=b".to_owned(),
    };
    assert_eq!(
        kernel_arguments(&network, &small, "quiet"),
        "xeno.addr=10.0.2.15/24 xeno.server=10.0.2.100 xeno.port=2049 xeno.export=/web/0 xeno.hostname=web-0 \
         xeno.init=small xeno.run=echo%20%2250%20%25%22%3B%20a%3Db xeno.mount=/var/log:/web/0%3Alogs quiet"
    );
    assert!(kernel_arguments(&network, &Boot::Native {}, "").ends_with(" systemd.hostname=web-0"));
}
