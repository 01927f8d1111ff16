//! Names and numbers that must not be confused with each other.

use std::fmt;
use std::sync::Arc;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name: {why}")]
pub struct NameError {
    /// The text, shortened to at most 80 characters.
    pub text: String,
    /// What a name must be.
    pub why: &'static str,
}

/// Longest name, in bytes: a DNS label (RFC 1035 §2.3.4), so that names can be host names.
pub const NAME_LEN_MAX: usize = 63;

fn check_name(text: &str) -> Result<(), NameError> {
    let fail = |why| {
        Err(NameError {
            text: text.chars().take(80).collect(),
            why,
        })
    };
    if text.is_empty() || text.len() > NAME_LEN_MAX {
        return fail("it needs 1 to 63 characters");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return fail("only a-z, 0-9 and `-` may appear in it");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() || !text.as_bytes()[text.len() - 1].is_ascii_alphanumeric()
    {
        return fail("it must begin and end with a letter or digit");
    }
    Ok(())
}

/// A name's text is shared: a hundred thousand slivers name the same few thousand slices and nodes, over and over.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text that is a valid name: a DNS label of lower-case letters, digits and `-`.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong with it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// Names a fleet: all that one repository describes.
    FleetName
);
name!(
    /// Names a site: a place with nodes.
    SiteName
);
name!(
    /// Names a node: one machine with one agent.
    NodeName
);
name!(
    /// Names a slice: one service, many places.
    SliceName
);
name!(
    /// Names a tenant: somebody who owns slices.
    TenantName
);
name!(
    /// Names a template: a published image, whose channels point at digests.
    TemplateName
);
name!(
    /// Names a channel of a template, such as `current` or `2026-11`.
    ChannelName
);

/// One numbered instance of a slice, `web/0`. The number stays when the sliver moves.
///
/// A sliver without anything of its own to write may be replaced make-before-break, and is embodied twice for a moment.
/// What belongs to one embodiment (domain, stacks, exports, directories) is named by the sliver *in a berth*: `web/0`
/// in the first, `web/0b` in the second. Everything that people write, and all that is remembered of a sliver, names it
/// in the first, which is the sliver itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliverId {
    /// The slice it belongs to.
    pub slice: SliceName,
    /// Its number in the slice, from 0.
    pub number: u32,
    berth: Berth,
}

/// One of the two places of a sliver where an embodiment of it can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Berth {
    /// Where it is at first, and always if it keeps what it writes.
    #[default]
    First,
    /// Beside the first.
    Second,
}

impl SliverId {
    /// The sliver of that number.
    #[must_use]
    pub fn new(slice: SliceName, number: u32) -> Self {
        Self {
            slice,
            number,
            berth: Berth::First,
        }
    }

    /// Reads `SLICE/NUMBER`.
    ///
    /// # Errors
    /// [`NameError`] if the text has another form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fail = || NameError {
            text: text.chars().take(80).collect(),
            why: "a sliver is written SLICE/NUMBER, as in web/0",
        };
        let (slice, number) = text.split_once('/').ok_or_else(fail)?;
        let canonical = number == "0" || !number.starts_with('0');
        let number = number
            .parse()
            .ok()
            .filter(|_| canonical && number.bytes().all(|b| b.is_ascii_digit()));
        Ok(Self::new(SliceName::new(slice)?, number.ok_or_else(fail)?))
    }

    /// Reads the name of an embodiment, as machines keep it: a sliver, and a `b` where it is in the second berth.
    ///
    /// # Errors
    /// [`NameError`] if the text has another form.
    pub fn parse_embodiment(text: &str) -> Result<Self, NameError> {
        match text.strip_suffix('b') {
            Some(sliver) => Ok(Self::parse(sliver)?.beside()),
            None => Self::parse(text),
        }
    }

    /// The embodiment of which this is the [`SliverId::label`].
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        let (slice, number) = label.rsplit_once('-')?;
        Self::parse_embodiment(&format!("{slice}/{number}")).ok()
    }

    /// The sliver as one file name: `web-0`, `web-0b`. Distinct embodiments never share it, since it is a whole slice
    /// name and one number after the last dash.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}-{}{}", self.slice, self.number, self.berth.mark())
    }

    /// In which berth this is.
    #[must_use]
    pub fn berth(&self) -> Berth {
        self.berth
    }

    /// The sliver itself, which is its name in the first berth.
    #[must_use]
    pub fn itself(&self) -> Self {
        Self::new(self.slice.clone(), self.number)
    }

    /// The same sliver in its other berth.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            slice: self.slice.clone(),
            number: self.number,
            berth: match self.berth {
                Berth::First => Berth::Second,
                Berth::Second => Berth::First,
            },
        }
    }
}

impl Berth {
    fn mark(self) -> &'static str {
        match self {
            Self::First => "",
            Self::Second => "b",
        }
    }
}

impl fmt::Display for SliverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_none() && f.precision().is_none() {
            write!(f, "{}/{}{}", self.slice, self.number, self.berth.mark())
        } else {
            f.pad(&format!("{}/{}{}", self.slice, self.number, self.berth.mark()))
        }
    }
}

/// A SHA-256 digest, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digests some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Reads `sha256:HEX`.
    ///
    /// # Errors
    /// [`NameError`] if the text has another form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fail = || NameError {
            text: text.chars().take(80).collect(),
            why: "a digest is `sha256:` and 64 hexadecimal digits",
        };
        let hex = text
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64)
            .ok_or_else(fail)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| match c {
                b'0'..=b'9' => Some(c - b'0'),
                b'a'..=b'f' => Some(c - b'a' + 10),
                _ => None,
            };
            let (high, low) = (digit(pair[0]).ok_or_else(fail)?, digit(pair[1]).ok_or_else(fail)?);
            *byte = high * 16 + low;
        }
        Ok(Self(bytes))
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        hexadecimal(&self.0[..6])
    }

    /// All 64 hexadecimal digits, without the `sha256:`.
    #[must_use]
    pub fn hex(&self) -> String {
        hexadecimal(&self.0)
    }
}

/// Two digits a byte. Plans name digests so often that formatting byte by byte shows in what they cost.
fn hexadecimal(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    write_hexadecimal(bytes, &mut digits);
    String::from_utf8(digits).expect("digits are text")
}

fn write_hexadecimal(bytes: &[u8], digits: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, two) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        two[0] = DIGITS[usize::from(byte >> 4)];
        two[1] = DIGITS[usize::from(byte & 15)];
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
        write_hexadecimal(&self.0, &mut text[7..]);
        f.write_str(std::str::from_utf8(&text).expect("digits are text"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.short())
    }
}

/// The git commit that was read, as 40 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Takes 40 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`NameError`] if the text has another form.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.len() == 40
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Ok(Self(Arc::from(text)));
        }
        Err(NameError {
            text: text.chars().take(80).collect(),
            why: "a revision is 40 hexadecimal digits",
        })
    }

    /// All 40 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Counts the desired states a node has accepted; unlike revisions, generations are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// Counts the holders of a sliver; a writable layer opened under a higher epoch refuses the lower ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Names one attempt to move one sliver: both ends call it the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigrationId(pub [u8; 16]);

impl MigrationId {
    /// Reads what `Display` writes.
    ///
    /// # Errors
    /// [`NameError`] if the text has another form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let plain = text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let number = plain.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        let number = number.ok_or_else(|| NameError {
            text: text.chars().take(80).collect(),
            why: "the name of a migration is 32 hexadecimal digits",
        })?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Wall-clock time in milliseconds since 1970, as the shell read it. For people and for windows of hours, never for
/// deciding who came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// Identity of a domain on its hypervisor (RFC 9562), derived from fleet and sliver so that it never changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainUuid(pub [u8; 16]);

impl DomainUuid {
    /// The UUID of `sliver` in `fleet`: version 8 (RFC 9562 §5.8) over their SHA-256.
    #[must_use]
    pub fn of(fleet: &FleetName, sliver: &SliverId) -> Self {
        let digest = Digest::of(format!("xenoslice domain\n{fleet}\n{sliver}").as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.0[..16]);
        bytes[6] = 0x80 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(bytes)
    }

    /// Reads the usual text form: 32 lower-case hexadecimal digits in groups of 8-4-4-4-12.
    ///
    /// # Errors
    /// [`NameError`] if the text has another form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fail = || NameError {
            text: text.chars().take(80).collect(),
            why: "a UUID is 32 hexadecimal digits in groups of 8-4-4-4-12",
        };
        let nibbles = text.bytes().filter(|b| *b != b'-').map(|b| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        });
        let nibbles: Vec<u8> = nibbles.collect::<Option<_>>().ok_or_else(fail)?;
        if nibbles.len() != 32 {
            return Err(fail());
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(nibbles.chunks_exact(2)) {
            *byte = pair[0] * 16 + pair[1];
        }
        let uuid = Self(bytes);
        if uuid.to_string() == text {
            Ok(uuid)
        } else {
            Err(fail())
        }
    }
}

impl fmt::Display for DomainUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                write!(f, "-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DomainUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
