//! From a domain's specification to QEMU's argument list. Pure, and never a shell's business.
//!
//! # Choices
//! - `-no-reboot`: a guest that reboots ends its process. Every boot then goes through the agent, which counts them,
//!   gives each a console log of its own and sees a crash loop as one.
//! - `-action panic=pause`: a guest that says it panicked (pvpanic) stays, stopped, and is observed as crashed. One
//!   that cannot say so reboots after [`PANIC_SECONDS`], which ends it.
//! - `-sandbox on,obsolete=deny` and no more: `spawn=deny` forbids the `guestfwd` command altogether, and
//!   `elevateprivileges=deny` kills it (libslirp's child calls setsid(2), which that set contains: measured with
//!   QEMU 7.2). The process is started with "no new privileges" instead.
//! - `restrict=on`: the guest reaches its own exports and nothing else; see qemu(1), `-netdev user`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use xeno_model::desired::Publish;
use xeno_reconciler::kernel_line::{check_word, encode};
use xeno_reconciler::ports::DomainSpec;

use crate::accel::Accel;
use crate::config::safe;
use crate::run_dir::RunDir;

/// The guest's address on its own user-mode network, with the prefix length.
pub const GUEST_ADDRESS: &str = "10.0.2.15";
/// Port on which every export is served to the guest (RFC 1813 §2.2.1 names it).
pub const NFS_PORT: u16 = 2049;
/// Mounts a guest may have: their servers are 10.0.2.100 and up, of which the network holds 155.
pub const MOUNTS_MAX: usize = 32;
/// Ports a guest may publish.
pub const PUBLISH_MAX: usize = 64;
/// Virtual CPUs of machine type `pc`.
pub const VCPUS_MAX: u32 = 255;
/// Memory in MiB: below 64 the kernel does not unpack its initramfs; above a TiB the CPU's address bits matter.
pub const MEMORY_MIB: std::ops::RangeInclusive<u64> = 64..=1 << 20;
/// Longest kernel command line, less its final zero (`COMMAND_LINE_SIZE` of Linux on x86).
pub const CMDLINE_LEN_MAX: usize = 2047;
/// A guest that panics reboots after this long, and so ends.
pub const PANIC_SECONDS: u32 = 5;

/// Words that only the driver may say, since they name its own devices.
const RESERVED: [&str; 6] = [
    "xeno.addr=",
    "xeno.server=",
    "xeno.export=",
    "xeno.hostname=",
    "xeno.mount=",
    "console=",
];

/// Why a specification cannot be put into arguments. All of these stay until the specification changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A path has characters that QEMU's option syntax gives a meaning, or is relative.
    #[error("{what} {} must be absolute, of letters, digits and /._+@~=-", path.display())]
    Path {
        /// Which path.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A word of the kernel command line.
    #[error("the kernel command line cannot have the word {word:?}: {why}")]
    Word {
        /// The word, shortened.
        word: String,
        /// Why not.
        why: &'static str,
    },
    /// The whole kernel command line.
    #[error("the kernel command line has {len} bytes, more than {CMDLINE_LEN_MAX}")]
    Cmdline {
        /// Its length.
        len: usize,
    },
    /// A number is out of bounds.
    #[error("{what} is {value}, outside {min} to {max}")]
    Bounds {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// The first mount is not the root.
    #[error("the first mount is {0:?}, not \"/\"")]
    Root(String),
    /// Two forwards would listen on one port.
    #[error("host port {0} is published twice")]
    PortTwice(u16),
    /// Its network is QEMU's own, and leads nowhere else.
    #[error("QEMU gives guests no public addresses: publish ports, or place it on a node with Xen")]
    Addresses,
    /// Port 0 means "any", which nobody could find.
    #[error("port 0 cannot be published")]
    PortZero,
}

/// What a domain begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin<'a> {
    /// Its kernel.
    Boot,
    /// An image, which it is given over its control socket; it stands still before and after.
    Image {
        /// Machine type that the image was made with.
        machine: &'a str,
        /// Memory that it was made with, in MiB.
        memory_max_mib: u64,
    },
    /// Memory that comes from another node; it stands still before and after, and has no ports yet.
    Copy {
        /// Machine type that it has there.
        machine: &'a str,
        /// Memory that it has there, in MiB.
        memory_max_mib: u64,
    },
}

/// Machine type of a new domain; QEMU takes it for its newest version of it.
const MACHINE: &str = "pc";

/// QEMU's arguments for `spec`, without the program itself.
///
/// # Errors
/// [`SpecError`] says what in the specification has no safe form.
pub fn arguments(
    spec: &DomainSpec,
    dir: &RunDir,
    accel: Accel,
    xeno: &Path,
    begin: Begin<'_>,
) -> Result<Vec<String>, SpecError> {
    let (machine, memory_mib) = match begin {
        Begin::Boot => (MACHINE, spec.memory_max_mib),
        Begin::Image {
            machine,
            memory_max_mib,
        }
        | Begin::Copy {
            machine,
            memory_max_mib,
        } => (machine, memory_max_mib),
    };
    let publish = match begin {
        Begin::Boot | Begin::Image { .. } => spec.publish.as_slice(),
        Begin::Copy { .. } => &[],
    };
    bounds("vcpus", u64::from(spec.vcpus), 1, u64::from(VCPUS_MAX))?;
    bounds(
        "memory_max_mib",
        memory_mib,
        *MEMORY_MIB.start(),
        *MEMORY_MIB.end(),
    )?;
    bounds(
        "the number of mounts",
        spec.mounts.len() as u64,
        0,
        MOUNTS_MAX as u64,
    )?;
    check_ports(&spec.publish)?;
    if !spec.addresses.is_empty() {
        return Err(SpecError::Addresses);
    }
    let file = |what, path: &Path| {
        safe(path).map(str::to_owned).ok_or_else(|| SpecError::Path {
            what,
            path: path.to_owned(),
        })
    };
    let console = file("the console socket", &dir.console_socket())?;
    let console_log = file("the console log", &dir.console_log())?;
    let qmp = file("the control socket", &dir.qmp())?;

    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    add(&[
        "-name",
        &format!("guest=xeno-{},debug-threads=on", spec.sliver.label()),
    ]);
    add(&["-uuid", &spec.uuid.to_string()]);
    add(&["-pidfile", &file("the pid file", &dir.pid())?]);
    add(&[
        "-machine",
        &format!("{machine},usb=off,vmport=off,dump-guest-core=off"),
    ]);
    match accel {
        Accel::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        Accel::Tcg => add(&["-accel", "tcg,thread=multi", "-cpu", "max"]),
    }
    add(&["-smp", &spec.vcpus.to_string()]);
    add(&["-m", &format!("{memory_mib}M")]);
    add(&["-kernel", &file("the kernel", &spec.kernel)?]);
    add(&["-initrd", &file("the initramfs", &spec.initramfs)?]);
    add(&["-append", &command_line(spec)?]);
    add(&["-no-reboot", "-action", "panic=pause"]);
    add(&[
        "-chardev",
        &format!("socket,id=con,path={console},server=on,wait=off,logfile={console_log},logappend=on"),
    ]);
    add(&["-serial", "chardev:con"]);
    add(&[
        "-chardev",
        &format!("socket,id=qmp,path={qmp},server=on,wait=off"),
    ]);
    add(&["-mon", "chardev=qmp,mode=control"]);
    add(&["-netdev", &network(spec, publish, xeno)?]);
    add(&["-device", "virtio-net-pci,netdev=n0,romfile="]);
    add(&[
        "-object",
        "rng-builtin,id=rng0",
        "-device",
        "virtio-rng-pci,rng=rng0",
    ]);
    add(&[
        "-device",
        "virtio-balloon-pci,deflate-on-oom=on",
        "-device",
        "pvpanic-pci",
    ]);
    add(&["-sandbox", "on,obsolete=deny", "-msg", "timestamp=on"]);
    match begin {
        Begin::Boot => {}
        Begin::Image { .. } | Begin::Copy { .. } => add(&["-incoming", "defer", "-S"]),
    }
    Ok(args)
}

/// The user-mode network: one forward to a helper for each mount, one listener for each published port.
fn network(spec: &DomainSpec, publish: &[Publish], xeno: &Path) -> Result<String, SpecError> {
    let unsafe_path = |what, path: &Path| SpecError::Path {
        what,
        path: path.to_owned(),
    };
    let xeno = safe(xeno).ok_or_else(|| unsafe_path("the forwarding program", xeno))?;
    let mut value = String::from("user,id=n0,ipv6=off,restrict=on");
    for (index, mount) in spec.mounts.iter().enumerate() {
        let socket = safe(&mount.socket).ok_or_else(|| unsafe_path("an export's socket", &mount.socket))?;
        value += &format!(
            ",guestfwd=tcp:{}:{NFS_PORT}-cmd:{xeno} guestfwd {socket}",
            server(index)
        );
    }
    for port in publish {
        value += &format!(
            ",hostfwd=tcp:127.0.0.1:{}-{GUEST_ADDRESS}:{}",
            port.host, port.guest
        );
    }
    Ok(value)
}

/// Refuses ports that cannot be published together.
pub(crate) fn check_ports(publish: &[Publish]) -> Result<(), SpecError> {
    bounds(
        "the number of published ports",
        publish.len() as u64,
        0,
        PUBLISH_MAX as u64,
    )?;
    let mut taken = BTreeSet::new();
    for port in publish {
        if port.host == 0 || port.guest == 0 {
            return Err(SpecError::PortZero);
        }
        if !taken.insert(port.host) {
            return Err(SpecError::PortTwice(port.host));
        }
    }
    Ok(())
}

/// Address at which the guest finds the server of its mount number `index`.
fn server(index: usize) -> String {
    format!("10.0.2.{}", 100 + index)
}

/// The kernel command line: the driver's words, which the initramfs understands, then the specification's.
fn command_line(spec: &DomainSpec) -> Result<String, SpecError> {
    let mut words = vec![
        "console=ttyS0".to_owned(),
        format!("panic={PANIC_SECONDS}"),
        // Whichever embodiment of its sliver it is, a guest goes by one name.
        format!("xeno.hostname={}", spec.sliver.itself().label()),
        format!("systemd.hostname={}", spec.sliver.itself().label()),
        format!("xeno.addr={GUEST_ADDRESS}/24"),
    ];
    for (index, mount) in spec.mounts.iter().enumerate() {
        let server = server(index);
        if index == 0 {
            if mount.path != "/" {
                return Err(SpecError::Root(mount.path.clone()));
            }
            words.push(format!("xeno.server={server}"));
            words.push("xeno.export=/".to_owned());
        } else {
            if !mount.path.starts_with('/') {
                return Err(SpecError::Path {
                    what: "the mount point",
                    path: PathBuf::from(&mount.path),
                });
            }
            words.push(format!("xeno.mount={}:{server}:/", encode(&mount.path)));
        }
    }
    for word in &spec.cmdline {
        check_word(word, &RESERVED).map_err(|why| SpecError::Word {
            word: word.chars().take(80).collect(),
            why,
        })?;
        words.push(word.clone());
    }
    let line = words.join(" ");
    if line.len() > CMDLINE_LEN_MAX {
        return Err(SpecError::Cmdline { len: line.len() });
    }
    Ok(line)
}

fn bounds(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), SpecError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(SpecError::Bounds {
        what,
        value,
        min,
        max,
    })
}

#[cfg(test)]
mod tests;
