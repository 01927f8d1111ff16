//! A wave of a rollout: a share, or a mapping that says which nodes.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::desired::Share;
use crate::manifest::partial::Entries;
use crate::manifest::read::{FromText, Short, Text};

#[derive(Clone, Debug)]
pub(crate) enum RawWave {
    Share(Share),
    Match(RawWaveMatch),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWaveMatch {
    #[serde(rename = "match")]
    pub(crate) matching: Option<Entries<Text<Short>, Text<Short>>>,
}

impl<'de> Deserialize<'de> for RawWave {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = RawWave;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share or a mapping")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawWave, E> {
                let read = Share::from_text(text);
                read.map(RawWave::Share).map_err(|error| E::custom(error.message))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawWave, A::Error> {
                RawWaveMatch::deserialize(MapAccessDeserializer::new(map)).map(RawWave::Match)
            }
        }

        deserializer.deserialize_any(Reader)
    }
}
