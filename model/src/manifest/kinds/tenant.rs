//! `Tenant`.

use super::{API, KIND, map, text};
use crate::manifest::shape::{MapShape, Shape, optional, required};

/// Most names or beginnings of names that a tenant claims.
const CLAIMS_MAX: usize = 1_000;

pub(super) static TENANT: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required(
            "name",
            Shape::Text(&text::TENANT_NAME),
            "Name of the tenant.",
        )])),
        "What it is called.",
    ),
    optional(
        "spec",
        Shape::Map(&MapShape {
            fields: &[
                optional(
                    "quota",
                    Shape::Map(&QUOTA),
                    "How much all its slices may have together, over the fleet.",
                ),
                optional(
                    "slices",
                    Shape::List {
                        item: &Shape::Text(&text::NAME_OR_BEGINNING),
                        len_max: CLAIMS_MAX,
                    },
                    "The names that its slices may have, and nobody else's.",
                )
                .default("any that no tenant has claimed"),
            ],
            later: &["signers", "keys"],
            one_of: &[],
        }),
        "What it may have.",
    ),
]);

static QUOTA: MapShape = map(&[
    optional(
        "slivers",
        Shape::Number { min: 0, max: 100_000 },
        "Most slivers, running or not.",
    ),
    optional(
        "memory",
        Shape::Text(&text::QUOTA),
        "Most memory of slivers that are not stopped, with their room to grow.",
    ),
    optional(
        "vcpus",
        Shape::Number {
            min: 0,
            max: 12_800_000,
        },
        "Most virtual CPUs of slivers that are not stopped.",
    ),
    optional(
        "disk",
        Shape::Text(&text::QUOTA),
        "Most disk of all slivers; each then has to say its own limit in `resources.disk`.",
    ),
]);
