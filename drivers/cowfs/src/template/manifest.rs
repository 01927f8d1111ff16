//! The small document that is a template: its bytes have the digest by which the template is known.

use super::digest::Digest;

/// Longest manifest that is read.
const SIZE_MAX: usize = 64 * 1024;
/// Longest kernel command line extra; Linux keeps 2048 bytes in all on x86.
const CMDLINE_MAX: usize = 1024;
/// Longest command of a small init.
const RUN_MAX: usize = 1024;

/// How a guest of this template comes up once its root is mounted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", deny_unknown_fields)]
pub enum Boot {
    /// The root's own `/sbin/init`.
    Native {},
    /// The small init of this crate: mounts what a service needs, runs one command and keeps it running.
    Small {
        /// The command, given to `/bin/sh -c` in the root.
        run: String,
    },
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Version of this document; 1.
    pub format_version: u32,
    /// The tree.
    pub index: Digest,
    /// Content hash of the kernel, for templates that can boot.
    pub kernel: Option<Digest>,
    /// Content hash of the initramfs.
    pub initramfs: Option<Digest>,
    /// How to come up, for templates that can boot.
    pub boot: Option<Boot>,
    /// Words to add to the kernel's command line; empty for none.
    pub command_line: String,
}

/// Why a manifest is not one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of this form.
    #[error("not a template's manifest")]
    Syntax(#[source] serde_json::Error),
    /// Another version.
    #[error("a template's manifest of version {0}, while this program knows version 1")]
    Version(u32),
    /// Not as [`Manifest::to_bytes`] writes it: then equal templates could have different digests.
    #[error("a template's manifest that is not in canonical form")]
    NotCanonical,
    /// Something is too long, or has a control character in it.
    #[error("a template's {0} is too long or has a line break or another control character in it")]
    BadText(&'static str),
}

impl Manifest {
    /// The version written here.
    pub const VERSION: u32 = 1;

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a manifest has no maps and no fallible parts");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the canonical bytes.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > SIZE_MAX {
            return Err(ManifestError::BadText("manifest"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Syntax)?;
        if manifest.format_version != Self::VERSION {
            return Err(ManifestError::Version(manifest.format_version));
        }
        if manifest.to_bytes() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what will become arguments of a guest's kernel.
    ///
    /// # Errors
    /// [`ManifestError::BadText`].
    pub fn check(&self) -> Result<(), ManifestError> {
        let bad = |text: &str, max: usize| text.len() > max || text.chars().any(char::is_control);
        if bad(&self.command_line, CMDLINE_MAX) {
            return Err(ManifestError::BadText("command line"));
        }
        match &self.boot {
            Some(Boot::Small { run }) if bad(run, RUN_MAX) || run.trim().is_empty() => {
                Err(ManifestError::BadText("command to run"))
            }
            Some(Boot::Small { .. } | Boot::Native {}) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format_version: 1,
            index: Digest([7; 32]),
            kernel: Some(Digest([8; 32])),
            initramfs: None,
            boot: Some(Boot::Small {
                run: "apachectl -D FOREGROUND".to_owned(),
            }),
            command_line: String::new(),
        }
    }

    #[test]
    fn reads_back_and_stays_canonical() {
        let bytes = manifest().to_bytes();
        assert_eq!(Manifest::from_bytes(&bytes).expect("canonical"), manifest());
        let spaced = String::from_utf8(bytes).expect("text").replace(":null", ": null");
        assert!(matches!(
            Manifest::from_bytes(spaced.as_bytes()),
            Err(ManifestError::NotCanonical)
        ));
    }

    #[test]
    fn refuses_what_could_break_out_of_a_kernel_argument() {
        let mut manifest = manifest();
        manifest.boot = Some(Boot::Small {
            run: "a\nb".to_owned(),
        });
        assert!(matches!(
            Manifest::from_bytes(&manifest.to_bytes()),
            Err(ManifestError::BadText(_))
        ));
    }
}
