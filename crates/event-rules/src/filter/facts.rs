//! An event as filters see it.

use std::collections::HashMap;

use cel::common::{
    types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt},
    value::Val,
};
use guildhall_domain::{Result, event::TopicEvent};
use serde_json::Value;

type Fact = Box<dyn Val>;

/// The variables of filters, made once for all that look at the event.
pub struct Facts {
    event: Fact,
    headers: Fact,
    topic: Fact,
    publisher: Fact,
    sequence: Fact,
    /// As text: [`super::weave`] has CEL read it as a timestamp where a filter asks for it.
    published_at: Fact,
}

impl Facts {
    /// Fails on content that nests deeper than JSON is read, 128 levels: no filter matches that.
    pub fn of(event: &TopicEvent) -> Result<Self> {
        Ok(Self {
            event: fact(event.event.parse()?),
            headers: fact(Value::Object(event.headers.clone())),
            topic: text(event.topic.to_string()),
            publisher: text(event.publisher.clone()),
            sequence: whole(event.sequence),
            published_at: text(event.published_at.to_string()),
        })
    }

    pub(super) fn get(&self, variable: &str) -> Option<&dyn Val> {
        let fact = match variable {
            "event" => &self.event,
            "headers" => &self.headers,
            "topic" => &self.topic,
            "publisher" => &self.publisher,
            "sequence" => &self.sequence,
            "published_at" => &self.published_at,
            _ => return None,
        };
        Some(&**fact)
    }
}

fn text(text: String) -> Fact {
    Box::new(CelString::from(text))
}

/// An `int` wherever it fits: what JSON writes alike must add and compare alike.
fn whole(number: u64) -> Fact {
    i64::try_from(number)
        .map_or_else(|_| Box::new(CelUInt::from(number)) as Fact, |number| Box::new(CelInt::from(number)))
}

fn fact(value: Value) -> Fact {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(yes) => Box::new(CelBool::from(yes)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Box::new(CelInt::from(number)),
            (None, Some(number)) => whole(number),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(words) => text(words),
        Value::Array(items) => Box::new(CelList::from(items.into_iter().map(fact).collect::<Vec<_>>())),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (CelMapKey::from(name), fact(value)));
            Box::new(CelMap::from(fields.collect::<HashMap<_, _>>()))
        }
    }
}
