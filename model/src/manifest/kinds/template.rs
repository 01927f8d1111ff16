//! `Template`.

use super::{API, KIND, map, text};
use crate::manifest::shape::{MapShape, Shape, optional, required};

pub(super) static TEMPLATE: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required(
            "name",
            Shape::Text(&text::TEMPLATE_NAME),
            "Name of the template.",
        )])),
        "What it is called.",
    ),
    required(
        "spec",
        Shape::Map(&map(&[
            required(
                "channels",
                Shape::Free {
                    key: &text::CHANNEL_NAME,
                    value: &Shape::Text(&text::DIGEST),
                    len_max: 1000,
                },
                "Names of contents, such as `current` or `2026-11`, and their digests.",
            ),
            optional(
                "sources",
                Shape::List {
                    item: &Shape::Text(&text::TEMPLATE_SOURCE),
                    len_max: 16,
                },
                "Where the content can be fetched, tried in order.",
            ),
        ])),
        "What it holds.",
    ),
]);
