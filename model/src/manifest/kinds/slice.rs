//! `Slice`.

use super::{API, FILES_MAX, KIND, OVERRIDES_MAX, SLIVERS_MAX, map, text};
use crate::manifest::shape::{Field, MapShape, Shape, optional, required};

/// Most mounts of a slice, and layers of a mount.
const MOUNTS_MAX: usize = 64;
const LAYERS_MAX: usize = 64;
/// Most ports that a sliver publishes.
const PORTS_MAX: usize = 256;
/// Most public addresses of a sliver: each is a word of its kernel's command line.
const ADDRESSES_MAX: usize = 16;
/// Most labels that a `match` asks for.
const MATCHES_MAX: usize = 32;
/// Most waves of a rollout.
const WAVES_MAX: usize = 32;
/// Most labels that a wave asks for: the record of a rollout holds all of them, and has to fit on the board.
const WAVE_MATCHES_MAX: usize = 4;

const PORT: Shape = Shape::Number { min: 1, max: 65_535 };
const STATES: &[&str] = &["running", "suspended", "stopped"];
pub(super) const STARTS: &[&str] = &["boot", "resume"];

pub(super) static SLICE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[
            required(
                "name",
                Shape::Text(&text::SLICE_NAME),
                "Name of the slice; its slivers are NAME/0, NAME/1, ….",
            ),
            optional("tenant", Shape::Text(&text::TENANT_NAME), "Who owns it.")
                .default("whoever owns the fleet"),
            optional(
                "movedFrom",
                Shape::Text(&text::SLICE_NAME),
                "The name it had before: each sliver takes over the data of the old one with its number.",
            ),
        ])),
        "What it is called, and whose it is.",
    ),
    required("spec", Shape::Map(&SPEC), "The service."),
]);

static SPEC: MapShape = MapShape {
    fields: &[
        required(
            "image",
            Shape::Map(&map(&[
                required(
                    "kernel",
                    Shape::Text(&text::TEMPLATE_CHOICE),
                    "The template whose kernel and initramfs boot it.",
                ),
                required(
                    "mounts",
                    MOUNTS,
                    "What it mounts, `/` first, and what is below a mount after it.",
                ),
            ])),
            "What it runs.",
        ),
        required("resources", Shape::Map(&RESOURCES), "What each sliver gets."),
        required("placement", Shape::Map(&PLACE), "Where its slivers are."),
        optional("state", Shape::Word(STATES), "What its slivers should be doing.").default("running"),
        optional(
            "start",
            Shape::Word(STARTS),
            "How slivers start: from the kernel, or from a stored image if one fits.",
        )
        .default("boot"),
        optional(
            "publish",
            PUBLISH,
            "TCP ports of the guest that its node publishes.",
        ),
        optional(
            "addresses",
            ADDRESSES,
            "Public addresses of a sliver, beside its private one: of those that its site gives out, and on a node with Xen.",
        ),
        optional("health", Shape::Map(&HEALTH), "When a sliver counts as healthy.")
            .default("as soon as it runs"),
        optional(
            "rollout",
            Shape::Map(&ROLLOUT),
            "How a new revision spreads; carried out with the fleet's board.",
        ),
        optional(
            "migration",
            Shape::Map(&MIGRATION),
            "How slivers move to other nodes.",
        ),
        optional(
            "failover",
            Shape::Flag,
            "Whether another node may take slivers over from one that is certainly off. Needs the fleet's board, and that nothing is \
             written to the node's own disk.",
        )
        .default("false"),
        optional(
            "rollback",
            Shape::Map(&ROLLBACK),
            "What going back to an earlier revision does.",
        ),
        optional(
            "expiry",
            Shape::Text(&text::MOMENT),
            "From then on its slivers are stopped; their data is kept.",
        )
        .default("never"),
        optional(
            "overrides",
            Shape::List {
                item: &Shape::Map(&OVERRIDE),
                len_max: OVERRIDES_MAX,
            },
            "What is otherwise for some slivers, applied in order.",
        ),
    ],
    later: &[],
    one_of: &[],
};

const MOUNTS: Shape = Shape::List {
    item: &Shape::Map(&MOUNT),
    len_max: MOUNTS_MAX,
};

const ADDRESSES: Shape = Shape::List {
    item: &Shape::Text(&text::PUBLIC_ADDRESS),
    len_max: ADDRESSES_MAX,
};

const PUBLISH: Shape = Shape::List {
    item: &Shape::Map(&map(&[
        required("guest", PORT, "Port in the guest."),
        required(
            "host",
            PORT,
            "Port of the node for sliver 0; sliver N gets this plus N.",
        ),
    ])),
    len_max: PORTS_MAX,
};

static PLACE: MapShape = MapShape {
    fields: &[
        optional(
            "nodes",
            Shape::List {
                item: &Shape::Text(&text::NODE_NAME),
                len_max: SLIVERS_MAX,
            },
            "The node of each sliver, in the order of their numbers.",
        ),
        optional(
            "replicas",
            Shape::Number { min: 0, max: 100_000 },
            "How many slivers there are; `xeno place` finds their nodes.",
        ),
        optional(
            "match",
            MATCH,
            "With `replicas`: labels that a node must have, all of them.",
        )
        .default("any node"),
        optional(
            "spread",
            Shape::Word(&["site", "node", "none"]),
            "With `replicas`: what slivers are spread over.",
        )
        .default("site"),
        optional(
            "maxMoves",
            Shape::Number { min: 0, max: 100_000 },
            "With `replicas`: most slivers that one commit moves only to spread them.",
        )
        .default("any number"),
    ],
    later: &[],
    one_of: &["nodes", "replicas"],
};

const MATCH: Shape = Shape::Free {
    key: &text::SHORT,
    value: &Shape::Text(&text::SHORT),
    len_max: MATCHES_MAX,
};

static OVERRIDE: MapShape = map(&[
    required(
        "match",
        Shape::Free {
            key: &text::SHORT,
            value: &Shape::TextOrNumber(&text::LABEL_OR_NUMBER),
            len_max: MATCHES_MAX,
        },
        "Which slivers: labels of their node (or `node`, `site`, `region`), and their `number`; all must hold.",
    ),
    required(
        "patch",
        Shape::Map(&PATCH),
        "What is otherwise for them; mappings are merged, lists replaced.",
    ),
]);

static PATCH: MapShape = map(&[
    optional(
        "image",
        Shape::Map(&map(&[
            optional("kernel", Shape::Text(&text::TEMPLATE_CHOICE), "Another kernel."),
            optional(
                "mounts",
                MOUNTS,
                "Mounts to change or add, by path; fields that are given replace those there.",
            ),
        ])),
        "What they run.",
    ),
    optional("resources", Shape::Map(&RESOURCES_PATCH), "What they get."),
    optional("publish", PUBLISH, "The ports that are published, all of them."),
    optional("addresses", ADDRESSES, "Their public addresses, all of them."),
    optional("health", Shape::Map(&HEALTH_PATCH), "When they count as healthy."),
    optional("state", Shape::Word(STATES), "What they should be doing."),
    optional("start", Shape::Word(STARTS), "How they start."),
    optional("rollback", Shape::Map(&ROLLBACK), "What going back does."),
]);

static MOUNT: MapShape = map(&[
    required("path", Shape::Text(&text::GUEST_PATH), "Where in the guest."),
    optional(
        "layers",
        Shape::List {
            item: &Shape::Map(&LAYER),
            len_max: LAYERS_MAX,
        },
        "What is in it, nearest the guest first; later ones show through.",
    )
    .default("nothing"),
    optional(
        "writable",
        Shape::Text(&text::WRITABLE),
        "Where the guest's writes go.",
    )
    .default("local"),
]);

static LAYER: MapShape = MapShape {
    fields: &[
        optional(
            "files",
            Shape::Free {
                key: &text::FILE_PATH,
                value: &Shape::Map(&FILE),
                len_max: FILES_MAX,
            },
            "Files that the repository carries, by their path in the mount.",
        ),
        optional(
            "overlay",
            Shape::Text(&text::OVERLAY),
            "A directory of the node or of a remote file system.",
        ),
        optional(
            "template",
            Shape::Text(&text::TEMPLATE_CHOICE),
            "A published image.",
        ),
    ],
    later: &[],
    one_of: &["files", "overlay", "template"],
};

static FILE: MapShape = MapShape {
    fields: &[
        optional(
            "from",
            Shape::Text(&text::REPOSITORY_PATH),
            "A file of the repository, or a directory with all below it.",
        ),
        optional("text", Shape::Text(&text::CONTENT), "Its content, written out."),
        optional(
            "executable",
            Shape::Flag,
            "With `text`: whether it may be executed.",
        )
        .default("false"),
    ],
    later: &[],
    one_of: &["from", "text"],
};

const MEMORY_DOC: &str = "Memory that it boots with.";

static RESOURCES: MapShape = map(&[
    VCPUS,
    VCPUS_MAX,
    required("memory", Shape::Text(&text::MEMORY), MEMORY_DOC),
    MEMORY_MAX,
    CPU,
    DISK,
    INODES,
    NET,
]);

static RESOURCES_PATCH: MapShape = map(&[
    VCPUS,
    VCPUS_MAX,
    optional("memory", Shape::Text(&text::MEMORY), MEMORY_DOC),
    MEMORY_MAX,
    CPU,
    DISK,
    INODES,
    NET,
]);

const VCPUS: Field = optional("vcpus", Shape::Number { min: 1, max: 128 }, "Virtual CPUs.").default("1");
const VCPUS_MAX: Field = optional(
    "vcpusMax",
    Shape::Number { min: 1, max: 128 },
    "Most virtual CPUs that it can be given while it runs.",
)
.default("as `vcpus`");
const MEMORY_MAX: Field = optional(
    "memoryMax",
    Shape::Text(&text::MEMORY),
    "Most memory that it can be given while it runs.",
)
.default("as `memory`");
const CPU: Field = optional("cpu", Shape::Map(&CPU_TIME), "How CPU time is shared.");
static CPU_TIME: MapShape = map(&[
    optional(
        "weight",
        Shape::Number { min: 1, max: 65_535 },
        "Share of CPU time against other guests.",
    )
    .default("256"),
    optional(
        "cap",
        Shape::Number { min: 1, max: 12_800 },
        "Most CPU time, in percent of one CPU.",
    )
    .default("none"),
]);
const DISK: Field = optional(
    "disk",
    Shape::Text(&text::DISK),
    "Most bytes that each of its writable layers holds.",
)
.default("no limit");
const INODES: Field = optional(
    "inodes",
    Shape::Number {
        min: 16,
        max: 1_000_000_000,
    },
    "Most files, directories and other objects that are made or changed in each of its writable layers.",
)
.default("as many as come with `disk`");
const NET: Field = optional("net", Shape::Map(&NETWORK), "Its network.");
static NETWORK: MapShape = map(&[required(
    "rate",
    Shape::Text(&text::NET_RATE),
    "Most network traffic.",
)]);

const HTTP: Field = optional(
    "http",
    Shape::Map(&HTTP_PROBE),
    "An HTTP answer with this status.",
);
static HTTP_PROBE: MapShape = map(&[
    required("port", PORT, "Port in the guest, which must be published."),
    optional("path", Shape::Text(&text::REQUEST_PATH), "What is asked for.").default("/"),
    optional(
        "expect",
        Shape::Number { min: 100, max: 599 },
        "The status of a good answer.",
    )
    .default("200"),
]);
const TCP: Field = optional(
    "tcp",
    Shape::Map(&TCP_PROBE),
    "A TCP connection that the guest keeps open for a moment.",
);
static TCP_PROBE: MapShape = map(&[required(
    "port",
    PORT,
    "Port in the guest, which must be published.",
)]);
const CONSOLE: Field = optional(
    "console",
    Shape::Map(&CONSOLE_PROBE),
    "A line on the console that contains this.",
);
static CONSOLE_PROBE: MapShape = map(&[required("marker", Shape::Text(&text::MARKER), "The text.")]);
const HEALTH_INTERVAL: Field =
    optional("interval", Shape::Text(&text::INTERVAL), "How often is asked.").default("5s");
const THRESHOLD: Field = optional(
    "threshold",
    Shape::Number { min: 1, max: 100 },
    "How many answers in a row change the verdict.",
)
.default("3");
const HEALTH_GRACE: Field = optional(
    "grace",
    Shape::Text(&text::GRACE),
    "How long after a start a bad answer means nothing yet.",
)
.default("2m");

static HEALTH: MapShape = MapShape {
    fields: &[HTTP, TCP, CONSOLE, HEALTH_INTERVAL, THRESHOLD, HEALTH_GRACE],
    later: &[],
    one_of: &["http", "tcp", "console"],
};

/// Without `one_of`: what is asked may stay as it is.
static HEALTH_PATCH: MapShape = map(&[HTTP, TCP, CONSOLE, HEALTH_INTERVAL, THRESHOLD, HEALTH_GRACE]);

pub(super) static HEALTH_TIMES: MapShape = map(&[HEALTH_INTERVAL, THRESHOLD, HEALTH_GRACE]);

pub(super) static ROLLOUT: MapShape = map(&[
    optional(
        "canary",
        Shape::Number { min: 0, max: 100_000 },
        "How many slivers go first, alone.",
    )
    .default("1"),
    optional(
        "waves",
        Shape::List {
            item: &Shape::TextOrMap {
                text: &text::SHARE,
                map: &WAVE,
            },
            len_max: WAVES_MAX,
        },
        "The waves after them: how far each goes, of all slivers (rising, the last is 100%), or whom it takes.",
    )
    .default("[100%]"),
    optional(
        "maxUnavailable",
        Shape::TextOrNumber(&text::SHARE),
        "How many may be down at once because of it.",
    )
    .default("1"),
    optional(
        "maxFailed",
        Shape::TextOrNumber(&text::SHARE),
        "How many may fail before it ends.",
    )
    .default("0"),
    optional(
        "maxUnreachable",
        Shape::TextOrNumber(&text::SHARE),
        "How many may be out of reach before it waits.",
    )
    .default("40%"),
    optional(
        "bake",
        Shape::Text(&text::BAKE),
        "How long a wave is healthy before the next begins.",
    )
    .default("30s"),
    optional(
        "onFailure",
        Shape::Word(&["rollback", "hold"]),
        "When too many fail: all go back, or all stay until somebody decides.",
    )
    .default("rollback"),
]);

static WAVE: MapShape = map(&[required(
    "match",
    Shape::Free {
        key: &text::SHORT,
        value: &Shape::Text(&text::SHORT),
        len_max: WAVE_MATCHES_MAX,
    },
    "Slivers on nodes with these labels (or `node`, `site`, `region`), all of which must hold; others come last, in one more wave.",
)]);

pub(super) static MIGRATION: MapShape = map(&[
    optional(
        "policy",
        Shape::Word(&["live", "suspend", "restart"]),
        "While it runs, through a stored image, or by stopping here and booting there.",
    )
    .default("live"),
    optional(
        "downtime",
        Shape::Text(&text::DOWNTIME),
        "How long the guest may stand still in a live move.",
    )
    .default("300ms"),
    optional(
        "bandwidth",
        Shape::Text(&text::BANDWIDTH),
        "How fast memory is sent at most.",
    )
    .default("no limit"),
]);

pub(super) static ROLLBACK: MapShape = map(&[
    optional(
        "data",
        Shape::Word(&["keep", "restore"]),
        "What the guest has written since stays, or goes back as well.",
    )
    .default("keep"),
    optional(
        "checkpoints",
        Shape::Number { min: 0, max: 16 },
        "How many checkpoints of a writable layer are kept that were made before it boots as something else.",
    )
    .default("3"),
]);
