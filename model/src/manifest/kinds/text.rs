//! The kinds of text that fields hold: how people are told to write them, and what an editor checks.
//!
//! The patterns are for editors (JSON Schema, ECMA 262) and may allow more than the readers do, never less.

use super::{TextShape, reads};
use crate::desired::{AddressRange, NamePattern, Share};
use crate::id::{
    ChannelName, Digest, FleetName, NodeName, SiteName, SliceName, SliverId, TemplateName, TenantName,
};
use crate::manifest::read::{
    self, Address, Clock, Content, FilePath, GuestPath, Marker, Moment, Overlay, PublicAddress,
    RepositoryPath, RequestPath, Short, TemplateChoice, TemplateSource, Writable,
};

const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const TIME_PATTERN: &str = "^[0-9]+(ms|s|m|h|d)$";
const BYTES_PATTERN: &str = "^[0-9]+(B|KiB|MiB|GiB|TiB)$";
/// Of all that is written on one line.
const LINE: Option<&str> = None;

macro_rules! texts {
    ($($name:ident = $read:expr, $what:literal, $how:literal, $pattern:expr;)+) => {
        $(pub(super) static $name: TextShape = TextShape {
            what: $what,
            how: $how,
            pattern: $pattern,
            read: $read,
        };)+
    };
}

texts! {
    FLEET_NAME = reads::<FleetName>, "a name", "1 to 63 of a-z, 0-9 and `-`", Some(NAME_PATTERN);
    SITE_NAME = reads::<SiteName>, "the name of a site", "1 to 63 of a-z, 0-9 and `-`", Some(NAME_PATTERN);
    NODE_NAME = reads::<NodeName>, "the name of a node", "1 to 63 of a-z, 0-9 and `-`", Some(NAME_PATTERN);
    TEMPLATE_NAME = reads::<TemplateName>, "the name of a template", "1 to 63 of a-z, 0-9 and `-`", Some(NAME_PATTERN);
    CHANNEL_NAME = reads::<ChannelName>, "the name of a channel", "1 to 63 of a-z, 0-9 and `-`", Some(NAME_PATTERN);
    TENANT_NAME = reads::<TenantName>, "the name of a tenant", "1 to 63 of a-z, 0-9 and `-`", Some(NAME_PATTERN);
    SLICE_NAME = reads::<SliceName>, "the name of a slice", "1 to 63 of a-z, 0-9 and `-`", Some(NAME_PATTERN);
    NAME_OR_BEGINNING = reads::<NamePattern>, "names of slices", "a name, or a beginning with `*` after it: `shop-*`",
        Some("^[a-z0-9-]{0,63}\\*?$");
    SLIVER = reads::<SliverId>, "a sliver", "SLICE/NUMBER: `web/0`", Some("^[a-z0-9-]+/[0-9]+$");
    DIGEST = reads::<Digest>, "a digest", "`sha256:` and 64 hexadecimal digits", Some("^sha256:[0-9a-f]{64}$");
    TEMPLATE_CHOICE = reads::<TemplateChoice>, "a template", "NAME/CHANNEL or NAME@sha256:DIGEST; `template:` may stand before it",
        Some("^(template:)?[a-z0-9-]+(/[a-z0-9-]+|@sha256:[0-9a-f]{64})$");
    TEMPLATE_SOURCE = reads::<TemplateSource>, "a URL", "a template store: `file:///srv/templates`", Some("^file:///");
    OVERLAY = reads::<Overlay>, "a URL", "a directory: `file:///srv/overlays/acme`, `nfs://HOST/PATH` or `afs:CELL/PATH`",
        Some("^(file:///|nfs://|afs:)");
    WRITABLE = reads::<Writable>, "where writes go",
        "`local`, `memory`, `none`, or a URL (`file:///…`, `nfs://HOST/PATH`, `afs:CELL/PATH`) with `{sliver}` in it",
        Some("^(local|memory|none|file:///.*|nfs://.*|afs:.*)$");
    GUEST_PATH = reads::<GuestPath>, "a path in the guest", "from the root, without `.`, `..`, `//` or a `/` at the end", Some("^/");
    FILE_PATH = reads::<FilePath>, "a path in the mount", "from the mount's root, without `.`, `..` or `//`", Some("^/.");
    REPOSITORY_PATH = reads::<RepositoryPath>, "a path in the repository", "from the directory of fleet.yaml, without a leading `/`",
        Some("^[^/]");
    REQUEST_PATH = reads::<RequestPath>, "a path of a web page", "with a `/` before it, at most 1024 ASCII characters", Some("^/[!-~]*$");
    PUBLIC_ADDRESS = reads::<PublicAddress>, "a public address", "an IPv4 or IPv6 address that others reach: `203.0.113.7`",
        Some("^[0-9A-Fa-f.:]+$");
    ADDRESS_RANGE = reads::<AddressRange>, "a range of addresses", "the first, and how many bits all have in common: `203.0.113.0/24`",
        Some("^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$");
    ADDRESS = reads::<Address>, "a host", "a host name, an IPv4 or an IPv6 address", Some("^[0-9A-Za-z.:-]+$");
    SHORT = reads::<Short>, "a short text", "1 to 100 characters on one line", LINE;
    MARKER = reads::<Marker>, "a text on one line", "1 to 200 characters", LINE;
    CONTENT = reads::<Content>, "text", "any text", LINE;
    MEMORY = read::memory, "an amount of memory", "whole MiB, GiB or TiB from 1MiB to 64TiB: `128MiB`", Some(BYTES_PATTERN);
    DISK = read::disk, "an amount of disk", "1MiB to 64TiB: `20GiB`", Some(BYTES_PATTERN);
    QUOTA = read::quota, "an amount", "1MiB to 1048576TiB: `512GiB`", Some(BYTES_PATTERN);
    NET_RATE = read::rate, "a network rate", "8Kbit to 1000Gbit: `10Mbit`", Some("^[0-9]+(bit|Kbit|Mbit|Gbit)$");
    BANDWIDTH = read::bandwidth, "a rate of transfer", "1MiB/s to 1024GiB/s: `64MiB/s`", Some("^[0-9]+(B|KiB|MiB|GiB)/s$");
    INTERVAL = read::interval, "a span of time", "100ms to 1h: `5s`", Some(TIME_PATTERN);
    GRACE = read::grace, "a span of time", "0ms to 1d: `2m`", Some(TIME_PATTERN);
    WINDOW = read::window, "a span of time", "1s to 7d: `1h`", Some(TIME_PATTERN);
    BAKE = read::bake, "a span of time", "0ms to 7d: `30s`", Some(TIME_PATTERN);
    DOWNTIME = read::downtime, "a span of time", "1ms to 1m: `300ms`", Some(TIME_PATTERN);
    DISTANCE = read::distance, "a span of time", "0ms to 1m: `75ms`", Some(TIME_PATTERN);
    MOMENT = reads::<Moment>, "a moment", "RFC 3339 in UTC: `2026-12-31T00:00:00Z`",
        Some("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$");
    CLOCK = reads::<Clock>, "a time of day", "HH:MM in UTC, up to 24:00: `22:00`", Some("^[0-9]{2}:[0-9]{2}$");
    SHARE = reads::<Share>, "a share", "a number of slivers, or a percentage of all: `2`, `25%`", Some("^[0-9]+%?$");
    LABEL_OR_NUMBER = reads::<Short>, "what is matched", "a label's value; for `number` a number or a range: `0`, `2-5`", LINE;
}
