//! The JSON Schemas of a tool, derived from its types and stripped of what tells a model nothing: models read them
//! with every conversation, so each word costs.

use std::sync::Arc;

use rmcp::model::JsonObject;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

/// An optional argument is one that may be left out; that it may be `null` as well need not be said.
pub(super) fn of_input<T: JsonSchema>() -> Arc<JsonObject> {
    derived::<T>(|schema| {
        if schema.get("default") == Some(&Value::Null) {
            schema.remove("default");
        }
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|one| one != "null");
            if let [only] = &types[..] {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
    })
}

/// What a tool answers must fit its schema to the letter, `null` included.
pub(super) fn of_output<T: JsonSchema>() -> Arc<JsonObject> {
    derived::<T>(|_| {})
}

fn derived<T: JsonSchema>(also: fn(&mut JsonObject)) -> Arc<JsonObject> {
    // 2020-12 is what MCP takes a schema for that does not say.
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    strip(&mut schema, also);
    match schema {
        Value::Object(object) => Arc::new(object),
        _ => Arc::default(),
    }
}

fn strip(value: &mut Value, also: fn(&mut JsonObject)) {
    match value {
        Value::Object(schema) => {
            schema.remove("$schema");
            // The names of Rust types.
            schema.remove("title");
            if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                schema.remove("format");
            }
            also(schema);
            for (key, inner) in schema.iter_mut() {
                // Below these, names are a tool's own and not words of JSON Schema.
                if let ("properties" | "$defs", Value::Object(named)) = (key.as_str(), &mut *inner) {
                    named.values_mut().for_each(|schema| strip(schema, also));
                } else {
                    strip(inner, also);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, also)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Arguments {
        /// A property that has the name of a word of JSON Schema.
        title: Option<String>,
        count: Option<usize>,
    }

    #[test]
    fn schemas_keep_what_a_model_needs_and_no_more() {
        let input = serde_json::to_string(&of_input::<Arguments>()).unwrap();
        insta::assert_snapshot!(input, @r#"{"properties":{"count":{"minimum":0,"type":"integer"},"title":{"description":"A property that has the name of a word of JSON Schema.","type":"string"}},"type":"object"}"#);
        let output = of_output::<Arguments>();
        assert_eq!(output["properties"]["count"]["type"], serde_json::json!(["integer", "null"]));
    }
}
