//! `Fleet`.

use super::{API, KIND, map, slice, text};
use crate::manifest::shape::{MapShape, Shape, optional, required};

pub(super) static FLEET: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required(
            "name",
            Shape::Text(&text::FLEET_NAME),
            "Name of the fleet. Identities of guests derive from it, so it never changes.",
        )])),
        "What it is called.",
    ),
    optional("spec", Shape::Map(&SPEC), "What holds for the whole fleet."),
]);

static SPEC: MapShape = MapShape {
    fields: &[
        optional(
            "deleteBudget",
            Shape::Map(&map(&[
                required(
                    "slivers",
                    Shape::Number { min: 0, max: 100_000 },
                    "At most this many slivers of a node are removed within the window.",
                ),
                required("window", Shape::Text(&text::WINDOW), "The span of time."),
            ])),
            "How much a node may remove at once; what is above it waits.",
        )
        .default("{ slivers: 2, window: 1h }"),
        optional(
            "approval",
            Shape::Word(&["reconnects", "interrupts", "ends"]),
            "The least that a change does to a service that is up for which it waits until somebody approves it.",
        )
        .default("none waits"),
        optional(
            "defaults",
            Shape::Map(&map(&[
                optional("start", Shape::Word(slice::STARTS), "How slivers start."),
                optional(
                    "health",
                    Shape::Map(&slice::HEALTH_TIMES),
                    "How health is asked, where it is.",
                ),
                optional("rollout", Shape::Map(&slice::ROLLOUT), "How slices change."),
                optional("migration", Shape::Map(&slice::MIGRATION), "How slivers move."),
                optional(
                    "rollback",
                    Shape::Map(&slice::ROLLBACK),
                    "What a rollback does with data.",
                ),
            ])),
            "What slices do that do not say otherwise, field by field.",
        ),
    ],
    later: &["board", "signers"],
    one_of: &[],
};
