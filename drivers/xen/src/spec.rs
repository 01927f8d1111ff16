//! From a domain's specification to the text of its configuration for `xl`. Pure.
//!
//! # Choices
//! - `on_*=destroy`: every boot goes through the agent, which counts them and sees a crash loop as one.
//! - The command line is `cmdline=`, which no other setting adds to.
//! - Everything that comes from outside goes through [`quoted`], and what has no safe form is refused.
//!
//! # Source
//! xl.cfg(5); the lexer `tools/libs/util/libxlu_cfg_l.l` and `xlu__cfgl_dequote` in `libxlu_cfg.c`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use xeno_model::desired::Publish;
use xeno_model::id::SliverId;
use xeno_model::units::BitRate;
use xeno_reconciler::kernel_line::{check_word, encode};
use xeno_reconciler::ports::DomainSpec;

use crate::config::GuestKind;
use crate::link::GuestLink;

/// What our domains' names begin with.
pub const NAME_PREFIX: &str = "xeno.";
/// Mounts a guest may have.
pub const MOUNTS_MAX: usize = 32;
/// Ports a guest may publish.
pub const PUBLISH_MAX: usize = 64;
/// Public addresses a guest may have.
pub const ADDRESSES_MAX: usize = 16;
/// Virtual CPUs of a PVH guest (`HVM_MAX_VCPUS`); a PV guest may have more.
pub const VCPUS_MAX: u32 = 128;
/// Memory in MiB: below 32 no kernel unpacks its initramfs.
pub const MEMORY_MIB: std::ops::RangeInclusive<u64> = 32..=1 << 20;
/// Most processor time in percent of one: all of all processors.
pub const CAP_MAX: u32 = VCPUS_MAX * 100;
/// Longest command line of a PV guest, less its final zero (`MAX_GUEST_CMDLINE` in `xen/include/public/xen.h`); what is
/// longer would be cut without a word.
pub const CMDLINE_LEN_MAX_PV: usize = 1023;
/// Longest command line of Linux on x86, less its final zero (`COMMAND_LINE_SIZE`).
pub const CMDLINE_LEN_MAX: usize = 2047;
/// A guest that panics and does not crash its domain reboots after this long, which ends it.
pub const PANIC_SECONDS: u32 = 5;
/// Length of the span in which netback counts a guest's bytes, in microseconds; libxl's own default.
pub const CREDIT_US: u64 = 50_000;

/// Words that only the driver may say, since they name its own devices.
const RESERVED: [&str; 7] = [
    "xeno.addr=",
    "xeno.gateway=",
    "xeno.server=",
    "xeno.export=",
    "xeno.hostname=",
    "xeno.mount=",
    "console=",
];

/// Why a specification cannot be put into a configuration. All of these stay until the specification changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A path is relative, or has characters that are not printable ASCII.
    #[error("{what} {} must be absolute and of printable ASCII without spaces", path.display())]
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
    #[error("the kernel command line has {len} bytes, more than {max} that a guest of this kind gets")]
    Cmdline {
        /// Its length.
        len: usize,
        /// Most.
        max: usize,
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
    /// Port 0 means "any", which nobody could find.
    #[error("port 0 cannot be published")]
    PortZero,
    /// The name of the hotplug script.
    #[error("the hotplug script {0:?} must be of letters, digits and /._-")]
    Script(String),
}

/// How a guest is wired to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Its link.
    pub link: GuestLink,
    /// Hotplug script of its interface.
    pub script: String,
}

/// Name of a sliver's domain.
#[must_use]
pub fn name_of(sliver: &SliverId) -> String {
    format!("{NAME_PREFIX}{}", sliver.label())
}

/// The sliver whose domain would have this name.
#[must_use]
pub fn sliver_of(name: &str) -> Option<SliverId> {
    let sliver = SliverId::of_label(name.strip_prefix(NAME_PREFIX)?)?;
    (name_of(&sliver) == name).then_some(sliver)
}

/// The configuration of `spec` for `xl create` and `xl restore`.
///
/// # Errors
/// [`SpecError`] says what in the specification has no safe form.
pub fn render(spec: &DomainSpec, kind: GuestKind, kernel: &Path, wire: &Wire) -> Result<String, SpecError> {
    let (vcpus, most) = (u64::from(spec.vcpus), u64::from(spec.vcpus_max));
    bounds("vcpus", vcpus, 1, u64::from(VCPUS_MAX))?;
    bounds("vcpus_max", most, vcpus, u64::from(VCPUS_MAX))?;
    bounds(
        "memory_mib",
        spec.memory_mib,
        *MEMORY_MIB.start(),
        *MEMORY_MIB.end(),
    )?;
    bounds(
        "memory_max_mib",
        spec.memory_max_mib,
        spec.memory_mib,
        *MEMORY_MIB.end(),
    )?;
    bounds(
        "the number of mounts",
        spec.mounts.len() as u64,
        0,
        MOUNTS_MAX as u64,
    )?;
    check_limits(spec.limits.cpu_weight, spec.limits.cpu_cap_percent)?;
    check_ports(&spec.publish)?;
    bounds(
        "the number of public addresses",
        spec.addresses.len() as u64,
        0,
        ADDRESSES_MAX as u64,
    )?;
    let name = name_of(&spec.sliver);
    let mut text = String::from("# Written anew by the agent at each start.\n");
    let mut set = |key: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key} = {value}");
    };
    set("name", quoted(&name));
    set("uuid", quoted(&spec.uuid.to_string()));
    set("type", quoted(kind.word()));
    set("kernel", quoted(file("the kernel", kernel)?));
    set("ramdisk", quoted(file("the initramfs", &spec.initramfs)?));
    set("cmdline", quoted(&command_line(spec, kind, wire)?));
    set("memory", spec.memory_mib.to_string());
    set("maxmem", spec.memory_max_mib.to_string());
    set("vcpus", spec.vcpus.to_string());
    set("maxvcpus", spec.vcpus_max.to_string());
    set("cpu_weight", spec.limits.cpu_weight.to_string());
    set("cap", spec.limits.cpu_cap_percent.unwrap_or(0).to_string());
    set(
        "vif",
        format!("[ {} ]", quoted(&interface(wire, spec.limits.net_rate)?)),
    );
    for event in ["poweroff", "reboot", "watchdog", "crash", "soft_reset"] {
        set(&format!("on_{event}"), quoted("destroy"));
    }
    Ok(text)
}

/// A text as a value of the configuration, which xl reads as the same text. Only printable ASCII comes here; anything
/// else is written as its code.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut value = String::with_capacity(text.len() + 2);
    value.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                value.push('\\');
                value.push(char::from(byte));
            }
            b' '..=b'~' => value.push(char::from(byte)),
            // Always two digits, so what follows is not taken for one more.
            byte => {
                let _ = write!(value, "\\x{byte:02x}");
            }
        }
    }
    value.push('"');
    value
}

/// The value of netback's `rate` node for a rate: bytes, and the microseconds they are for. libxl computes the same.
#[must_use]
pub fn credit(rate: BitRate) -> String {
    let bytes = rate.0 / 8;
    let bytes = u128::from(bytes) * u128::from(CREDIT_US) / 1_000_000;
    format!("{},{CREDIT_US}", bytes.max(1))
}

/// The rate that a `rate` node stands for. `None`: it is of another form.
#[must_use]
pub fn rate_of(credit: &str) -> Option<BitRate> {
    let (bytes, span_us) = credit.split_once(',')?;
    let (bytes, span_us): (u64, u64) = (bytes.trim().parse().ok()?, span_us.trim().parse().ok()?);
    let bits = u128::from(bytes) * 8 * 1_000_000 / u128::from(span_us).max(1);
    Some(BitRate(u64::try_from(bits).unwrap_or(u64::MAX)))
}

/// The interface: commas separate, so everything in it is of a known form.
fn interface(wire: &Wire, rate: Option<BitRate>) -> Result<String, SpecError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    if wire.script.is_empty() || !wire.script.bytes().all(plain) {
        return Err(SpecError::Script(wire.script.clone()));
    }
    let mut value = format!("mac={},script={}", wire.link.mac, wire.script);
    if let Some(rate) = rate {
        // At least a byte in each span.
        let bits = rate.0.max(8 * 1_000_000 / CREDIT_US);
        let _ = write!(value, ",rate={bits}b/s@{CREDIT_US}us");
    }
    Ok(value)
}

/// Refuses limits that the scheduler would.
///
/// # Errors
/// [`SpecError::Bounds`].
pub fn check_limits(weight: u32, cap: Option<u32>) -> Result<(), SpecError> {
    bounds("the CPU weight", u64::from(weight), 1, 65_535)?;
    bounds("the CPU cap", u64::from(cap.unwrap_or(1)), 1, u64::from(CAP_MAX))
}

/// Refuses ports that cannot be published together.
///
/// # Errors
/// [`SpecError`].
pub fn check_ports(publish: &[Publish]) -> Result<(), SpecError> {
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

fn file<'a>(what: &'static str, path: &'a Path) -> Result<&'a str, SpecError> {
    let text = path
        .to_str()
        .filter(|text| text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()));
    text.ok_or_else(|| SpecError::Path {
        what,
        path: path.to_owned(),
    })
}

/// The kernel command line: the driver's words, which the initramfs understands, then the specification's.
fn command_line(spec: &DomainSpec, kind: GuestKind, wire: &Wire) -> Result<String, SpecError> {
    // Whichever embodiment of its sliver it is, a guest goes by one name.
    let host = spec.sliver.itself().label();
    let mut words = vec![
        "console=hvc0".to_owned(),
        format!("panic={PANIC_SECONDS}"),
        format!("xeno.hostname={host}"),
        format!("systemd.hostname={host}"),
    ];
    words.extend(wire.link.kernel_words(&spec.addresses));
    for (index, mount) in spec.mounts.iter().enumerate() {
        let export = encode(&mount.export);
        if index == 0 {
            if mount.path != "/" {
                return Err(SpecError::Root(mount.path.clone()));
            }
            words.push(format!("xeno.export={export}"));
        } else {
            if !mount.path.starts_with('/') {
                return Err(SpecError::Path {
                    what: "the mount point",
                    path: PathBuf::from(&mount.path),
                });
            }
            // From the same server.
            words.push(format!("xeno.mount={}:{export}", encode(&mount.path)));
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
    let max = match kind {
        GuestKind::Pv => CMDLINE_LEN_MAX_PV,
        GuestKind::Pvh => CMDLINE_LEN_MAX,
    };
    if line.len() > max {
        return Err(SpecError::Cmdline { len: line.len(), max });
    }
    Ok(line)
}

fn bounds(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), SpecError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(SpecError::Bounds {
            what,
            value,
            min,
            max,
        })
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
