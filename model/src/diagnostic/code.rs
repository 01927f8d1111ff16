//! The kinds of things that can be wrong with manifests.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Names a kind of mistake. A code keeps its meaning for ever; new kinds get new codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As it is printed: `E0107`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// The bytes are not text: not UTF-8, or with control characters.
    NotText = "E0101",
    /// The text is not YAML.
    Syntax = "E0102",
    /// A file or document is above a limit: size, depth, number of values after aliases.
    TooLarge = "E0103",
    /// A key is given twice in one mapping.
    DuplicateKey = "E0104",
    /// YAML that manifests do not use: tags, merge keys, keys that are not text.
    UnsupportedYaml = "E0105",
    /// `apiVersion` or `kind` is not one that is known.
    UnknownKind = "E0106",
    /// Slivers need more memory than their node offers.
    Capacity = "E0107",
    /// A field that does not exist.
    UnknownField = "E0108",
    /// Something that this version does not have yet.
    NotAvailable = "E0109",
    /// A field that must be given is not.
    MissingField = "E0110",
    /// A value of the wrong type: text for a mapping, a number for text.
    WrongType = "E0111",
    /// A value that does not read: a unit, a name, a digest, a number out of range.
    BadValue = "E0112",
    /// Two documents define the same thing.
    DuplicateName = "E0113",
    /// A name that nothing defines.
    UnknownName = "E0114",
    /// Not exactly one `Fleet`, in `fleet.yaml`.
    Fleet = "E0115",
    /// Mounts that do not make a tree.
    Mount = "E0116",
    /// A carried file that cannot be carried.
    File = "E0117",
    /// Two slivers of one node publish the same port.
    PortClash = "E0118",
    /// A health check asks a port that is not published.
    HealthPort = "E0119",
    /// A manifest that is not an ordinary file.
    NotOrdinary = "E0120",
    /// Two YAML readers understand a document differently.
    Ambiguous = "E0121",
    /// More slivers, files or bytes than the limits allow.
    Limit = "E0122",
    /// A file that looks like a manifest but for its ending.
    Ending = "E0123",
    /// A tenant's slices ask for more than its quota.
    Quota = "E0124",
    /// A slice has a name that its tenant may not use, or that is another's.
    Tenant = "E0125",
    /// A slice takes over from one that it cannot take over from.
    MovedFrom = "E0126",
    /// The places of a slice's slivers are not known, out of date, or not to be found.
    Placement = "E0127",
    /// Two writers of one place.
    Writable = "E0128",
    /// A public address that its site does not give out, or that two slivers would have.
    Address = "E0129",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_in_order() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.to_string(), format!("E{:04}", 101 + i));
        }
    }
}
