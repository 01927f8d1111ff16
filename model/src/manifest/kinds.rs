//! The kinds of documents and their fields.

use super::read::{
    self, Content, FilePath, GuestPath, Marker, NodeDirectory, RepositoryPath, RequestPath, Short,
    TemplateChoice, TemplateSource, reads,
};
use super::shape::{Field, MapShape, Shape, optional, required};
use crate::id::{ChannelName, Digest, FleetName, NodeName, SiteName, SliceName, TemplateName};

/// The `apiVersion` of every document.
pub const API_VERSION: &str = "xenoslice/v1";

/// Most slivers of a slice, and of a fleet.
pub const SLIVERS_MAX: usize = 100_000;
/// Most files that one `files:` layer carries.
pub const FILES_MAX: usize = 10_000;
/// Most mounts of a slice, and layers of a mount.
const MOUNTS_MAX: usize = 64;
const LAYERS_MAX: usize = 64;
/// Most ports that a sliver publishes.
const PORTS_MAX: usize = 256;

/// What a document describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The fleet itself.
    Fleet,
    /// A place with nodes.
    Site,
    /// A machine.
    Node,
    /// A published image.
    Template,
    /// A service.
    Slice,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: [Self; 5] = [Self::Fleet, Self::Site, Self::Node, Self::Template, Self::Slice];

    /// As manifests write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "Fleet",
            Self::Site => "Site",
            Self::Node => "Node",
            Self::Template => "Template",
            Self::Slice => "Slice",
        }
    }

    /// As sentences name it.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Site => "site",
            Self::Node => "node",
            Self::Template => "template",
            Self::Slice => "slice",
        }
    }

    pub(crate) fn shape(self) -> &'static MapShape {
        match self {
            Self::Fleet => &FLEET,
            Self::Site => &SITE,
            Self::Node => &NODE,
            Self::Template => &TEMPLATE,
            Self::Slice => &SLICE,
        }
    }
}

const fn map(fields: &'static [Field]) -> MapShape {
    MapShape {
        fields,
        later: &[],
        one_of: &[],
    }
}

const API: Field = required("apiVersion", Shape::Word(&[API_VERSION]));
const KIND: Field = required(
    "kind",
    Shape::Word(&["Fleet", "Site", "Node", "Template", "Slice"]),
);

/// What every document has, whatever its kind; used where the kind is not known.
pub(crate) static HEADER: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

static FLEET: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required("name", Shape::Text(reads::<FleetName>))])),
    ),
    optional(
        "spec",
        Shape::Map(&MapShape {
            fields: &[optional(
                "deleteBudget",
                Shape::Map(&map(&[
                    required("slivers", Shape::Number { min: 0, max: 100_000 }),
                    required("window", Shape::Text(read::window)),
                ])),
            )],
            later: &["board", "defaults", "signers"],
            one_of: &[],
        }),
    ),
]);

static SITE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required("name", Shape::Text(reads::<SiteName>))])),
    ),
    optional(
        "spec",
        Shape::Map(&MapShape {
            fields: &[optional("region", Shape::Text(reads::<Short>))],
            later: &["distances", "policy", "caps", "vetoes", "maintenance"],
            one_of: &[],
        }),
    ),
]);

static NODE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required("name", Shape::Text(reads::<NodeName>))])),
    ),
    required(
        "spec",
        Shape::Map(&MapShape {
            fields: &[
                required("site", Shape::Text(reads::<SiteName>)),
                optional(
                    "labels",
                    Shape::Free {
                        key: reads::<Short>,
                        value: &Shape::Text(reads::<Short>),
                        len_max: 100,
                    },
                ),
                required(
                    "capacity",
                    Shape::Map(&map(&[
                        required("memory", Shape::Text(read::memory)),
                        required("vcpus", Shape::Number { min: 1, max: 4096 }),
                    ])),
                ),
                optional(
                    "reserved",
                    Shape::Map(&map(&[required("memory", Shape::Text(read::memory))])),
                ),
                optional("hypervisor", Shape::Word(&["qemu", "xen"])),
            ],
            later: &["address"],
            one_of: &[],
        }),
    ),
]);

static TEMPLATE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required("name", Shape::Text(reads::<TemplateName>))])),
    ),
    required(
        "spec",
        Shape::Map(&map(&[
            required(
                "channels",
                Shape::Free {
                    key: reads::<ChannelName>,
                    value: &Shape::Text(reads::<Digest>),
                    len_max: 1000,
                },
            ),
            optional(
                "sources",
                Shape::List {
                    item: &Shape::Text(reads::<TemplateSource>),
                    len_max: 16,
                },
            ),
        ])),
    ),
]);

static SLICE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&MapShape {
            fields: &[required("name", Shape::Text(reads::<SliceName>))],
            later: &["tenant", "movedFrom"],
            one_of: &[],
        }),
    ),
    required(
        "spec",
        Shape::Map(&MapShape {
            fields: &[
                required(
                    "image",
                    Shape::Map(&map(&[
                        required("kernel", Shape::Text(reads::<TemplateChoice>)),
                        required(
                            "mounts",
                            Shape::List {
                                item: &Shape::Map(&MOUNT),
                                len_max: MOUNTS_MAX,
                            },
                        ),
                    ])),
                ),
                required("resources", Shape::Map(&RESOURCES)),
                required(
                    "placement",
                    Shape::Map(&MapShape {
                        fields: &[required(
                            "nodes",
                            Shape::List {
                                item: &Shape::Text(reads::<NodeName>),
                                len_max: SLIVERS_MAX,
                            },
                        )],
                        later: &["replicas", "match", "spread", "maxMoves"],
                        one_of: &[],
                    }),
                ),
                optional("state", Shape::Word(&["running", "suspended", "stopped"])),
                optional(
                    "publish",
                    Shape::List {
                        item: &Shape::Map(&map(&[required("guest", PORT), required("host", PORT)])),
                        len_max: PORTS_MAX,
                    },
                ),
                optional("health", Shape::Map(&HEALTH)),
            ],
            later: &[
                "start",
                "rollout",
                "migration",
                "overrides",
                "replicas",
                "tenant",
                "expiry",
                "failover",
                "rollback",
            ],
            one_of: &[],
        }),
    ),
]);

const PORT: Shape = Shape::Number { min: 1, max: 65_535 };

static MOUNT: MapShape = map(&[
    required("path", Shape::Text(reads::<GuestPath>)),
    required(
        "layers",
        Shape::List {
            item: &Shape::Map(&LAYER),
            len_max: LAYERS_MAX,
        },
    ),
    optional("writable", Shape::Word(&["local", "none"])),
]);

static LAYER: MapShape = MapShape {
    fields: &[
        optional(
            "files",
            Shape::Free {
                key: reads::<FilePath>,
                value: &Shape::Map(&FILE),
                len_max: FILES_MAX,
            },
        ),
        optional("overlay", Shape::Text(reads::<NodeDirectory>)),
        optional("template", Shape::Text(reads::<TemplateChoice>)),
    ],
    later: &[],
    one_of: &["files", "overlay", "template"],
};

static FILE: MapShape = MapShape {
    fields: &[
        optional("from", Shape::Text(reads::<RepositoryPath>)),
        optional("text", Shape::Text(reads::<Content>)),
        optional("executable", Shape::Flag),
    ],
    later: &[],
    one_of: &["from", "text"],
};

static RESOURCES: MapShape = map(&[
    optional("vcpus", Shape::Number { min: 1, max: 128 }),
    required("memory", Shape::Text(read::memory)),
    optional(
        "cpu",
        Shape::Map(&map(&[
            optional("weight", Shape::Number { min: 1, max: 65_535 }),
            optional("cap", Shape::Number { min: 1, max: 12_800 }),
        ])),
    ),
    optional("disk", Shape::Text(read::disk)),
    optional(
        "net",
        Shape::Map(&map(&[required("rate", Shape::Text(read::rate))])),
    ),
]);

static HEALTH: MapShape = MapShape {
    fields: &[
        optional(
            "http",
            Shape::Map(&map(&[
                required("port", PORT),
                optional("path", Shape::Text(reads::<RequestPath>)),
                optional("expect", Shape::Number { min: 100, max: 599 }),
            ])),
        ),
        optional("tcp", Shape::Map(&map(&[required("port", PORT)]))),
        optional(
            "console",
            Shape::Map(&map(&[required("marker", Shape::Text(reads::<Marker>))])),
        ),
        optional("interval", Shape::Text(read::interval)),
        optional("threshold", Shape::Number { min: 1, max: 100 }),
        optional("grace", Shape::Text(read::grace)),
    ],
    later: &[],
    one_of: &["http", "tcp", "console"],
};
