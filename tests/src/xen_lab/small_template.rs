//! A guest small enough for an emulated CPU: busybox, which serves pages and counts.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::lab::template::import_bootable;
use crate::lab::{LabError, LabResult, write};

/// What the guest runs: a web server, and a count on the console and in a file.
const SERVE: &str = r#"#!/bin/sh
export PATH=/bin
read -r boot </proc/sys/kernel/random/boot_id
echo "guest: up, boot $boot"
httpd -p 80 -h /www
n=0
read -r n </var/count 2>/dev/null
while :; do
  n=$((n + 1))
  # What udev's rule does for processors that come into use.
  for cpu in /sys/devices/system/cpu/cpu[1-9]/online; do
    [ -e "$cpu" ] && [ "$(cat "$cpu")" = 0 ] && echo 1 >"$cpu"
  done
  echo "$n" >/var/count.new && mv /var/count.new /var/count
  sleep 1
done
"#;

/// Tells what the guest sees of itself.
const GUEST: &str = r#"#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "hostname $(hostname)"
echo "count $(cat /var/count)"
set -- $(sed -n 's/^processor.*: //p' /proc/cpuinfo)
echo "cpus $#"
echo "memory $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
echo "root $(sed -n 's/^\([^ ]*\) \/ nfs .*/\1/p' /proc/mounts)"
"#;

/// Appends a line to a file and answers only once it has been synced: by one program, since sync(2) tells nobody of errors, and
/// the kernel tells of one only those who have the file open.
const LEDGER: &str = r#"#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
case $QUERY_STRING in
  '') cat /var/ledger ;;
  *)
    if echo "$QUERY_STRING" | dd of=/var/ledger oflag=append conv=notrunc,fsync 2>/dev/null; then
      echo committed
    else
      echo refused
    fi
    ;;
esac
"#;

/// Programs of busybox that the guest calls by their own names.
const APPLETS: [&str; 9] = [
    "sh", "cat", "sed", "sleep", "mv", "dd", "httpd", "hostname", "echo",
];

/// Makes the tree below `work` and imports it into `store`, with the kernel and modules that `make image` left in `images`.
/// Returns the digest.
///
/// # Errors
/// If busybox is missing, or what `xeno template import` said.
pub fn import(xeno: &Path, images: &Path, work: &Path, store: &Path) -> LabResult<String> {
    let tree = work.join("small");
    let program = |path: &str, text: &str| -> LabResult<()> {
        let path = tree.join(path);
        write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(LabError::io(format!("opening {}", path.display())))
    };
    program("bin/serve", SERVE)?;
    program("www/cgi-bin/guest", GUEST)?;
    program("www/cgi-bin/ledger", LEDGER)?;
    write(&tree.join("www/index.html"), "nobody has pushed a page\n")?;
    write(&tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    import_tree(xeno, images, &tree, &APPLETS, "/bin/serve", store)
}

/// Adds to `tree`, which has a `bin`, busybox under the names `applets` and the directories that a root needs, and imports it
/// into `store` as a template called `small` whose guests run `run`. Returns the digest.
///
/// # Errors
/// If busybox is missing, or what `xeno template import` said.
pub fn import_tree(
    xeno: &Path,
    images: &Path,
    tree: &Path,
    applets: &[&str],
    run: &str,
    store: &Path,
) -> LabResult<String> {
    for empty in ["var", "tmp", "root", "dev", "proc", "sys", "run"] {
        fs::create_dir_all(tree.join(empty)).map_err(LabError::io("making the guest's tree"))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).map_err(LabError::io("copying /bin/busybox"))?;
    for applet in applets {
        symlink("busybox", tree.join("bin").join(applet))
            .map_err(LabError::io("naming programs of busybox"))?;
    }
    import_bootable(xeno, tree, images, store, "small", run)
}
