//! `Site` and `Node`.

use super::{API, KIND, map, text};
use crate::manifest::shape::{MapShape, Shape, optional, required};

/// Most sites that one says its distance to, and names that a policy holds.
const NAMES_MAX: usize = 1_000;
/// Most ranges of addresses that a site gives out.
const RANGES_MAX: usize = 100;
/// Most maintenance windows of a site.
const WINDOWS_MAX: usize = 50;

pub(super) static SITE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required(
            "name",
            Shape::Text(&text::SITE_NAME),
            "Name of the site.",
        )])),
        "What it is called.",
    ),
    optional(
        "spec",
        Shape::Map(&map(&[
            optional(
                "region",
                Shape::Text(&text::SHORT),
                "Part of the world, for people and for matching.",
            ),
            optional(
                "distances",
                Shape::Free {
                    key: &text::SITE_NAME,
                    value: &Shape::Text(&text::DISTANCE),
                    len_max: NAMES_MAX,
                },
                "How long a packet takes to other sites and back.",
            ),
            optional(
                "policy",
                Shape::Map(&POLICY),
                "What the site's owner allows. The site's word is last.",
            ),
        ])),
        "Where it is, and what is allowed there.",
    ),
]);

static POLICY: MapShape = map(&[
    optional("caps", Shape::Map(&CAPS), "How much anybody may have here."),
    optional(
        "vetoes",
        Shape::Map(&map(&[
            optional(
                "slices",
                Shape::List {
                    item: &Shape::Text(&text::SLICE_NAME),
                    len_max: NAMES_MAX,
                },
                "Slices that do not run here.",
            ),
            optional(
                "tenants",
                Shape::List {
                    item: &Shape::Text(&text::TENANT_NAME),
                    len_max: NAMES_MAX,
                },
                "Tenants whose slices do not run here.",
            ),
        ])),
        "What does not run here: such slivers are stopped and keep their data.",
    ),
    optional(
        "addresses",
        Shape::List {
            item: &Shape::Text(&text::ADDRESS_RANGE),
            len_max: RANGES_MAX,
        },
        "Public addresses that slivers may have here.",
    )
    .default("none"),
    optional(
        "maintenance",
        Shape::List {
            item: &Shape::Map(&WINDOW),
            len_max: WINDOWS_MAX,
        },
        "Weekly windows, in UTC. Changes that disturb a guest wait for one; repairs do not.",
    )
    .default("at any time"),
]);

static CAPS: MapShape = map(&[
    optional(
        "sliver",
        Shape::Map(&map(&[
            optional(
                "memory",
                Shape::Text(&text::MEMORY),
                "Most memory, with the room to grow.",
            ),
            optional("vcpus", Shape::Number { min: 1, max: 128 }, "Most virtual CPUs."),
        ])),
        "What one sliver may have.",
    ),
    optional(
        "slice",
        Shape::Map(&COUNT),
        "What one slice may have here in all.",
    ),
    optional(
        "tenant",
        Shape::Map(&COUNT),
        "What one tenant may have here in all.",
    ),
]);

static COUNT: MapShape = map(&[required(
    "slivers",
    Shape::Number { min: 0, max: 100_000 },
    "Most slivers; the first ones by slice and number are run.",
)]);

static WINDOW: MapShape = map(&[
    optional(
        "days",
        Shape::List {
            item: &Shape::Word(&["mon", "tue", "wed", "thu", "fri", "sat", "sun"]),
            len_max: 7,
        },
        "Days on which it begins.",
    )
    .default("every day"),
    required("from", Shape::Text(&text::CLOCK), "When it begins."),
    required(
        "until",
        Shape::Text(&text::CLOCK),
        "When it ends; at or before `from`: on the next day.",
    ),
]);

pub(super) static NODE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required(
            "name",
            Shape::Text(&text::NODE_NAME),
            "Name of the node.",
        )])),
        "What it is called.",
    ),
    required(
        "spec",
        Shape::Map(&map(&[
            required("site", Shape::Text(&text::SITE_NAME), "Where it stands."),
            optional("address", Shape::Text(&text::ADDRESS), "Where others reach it."),
            optional(
                "labels",
                Shape::Free {
                    key: &text::SHORT,
                    value: &Shape::Text(&text::SHORT),
                    len_max: 100,
                },
                "What `match` looks at, besides `node`, `site` and `region`.",
            ),
            required(
                "capacity",
                Shape::Map(&map(&[
                    required(
                        "memory",
                        Shape::Text(&text::MEMORY),
                        "Memory for guests, before what is kept back.",
                    ),
                    required(
                        "vcpus",
                        Shape::Number { min: 1, max: 4096 },
                        "Virtual CPUs; guests may share them.",
                    ),
                ])),
                "What the machine offers.",
            ),
            optional(
                "reserved",
                Shape::Map(&map(&[required(
                    "memory",
                    Shape::Text(&text::MEMORY),
                    "Memory that guests do not get: on Xen, that of dom0.",
                )])),
                "What is kept back of it.",
            ),
            optional(
                "hypervisor",
                Shape::Word(&["qemu", "xen"]),
                "What runs its guests.",
            )
            .default("qemu"),
            optional(
                "cordoned",
                Shape::Flag,
                "Whether `xeno place` and `migrate` put nothing there any more; what is there stays.",
            )
            .default("false"),
        ])),
        "The machine.",
    ),
]);
