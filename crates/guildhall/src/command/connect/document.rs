//! Puts one entry into a program's configuration and leaves everything else as it stands: order, spacing, comments.

use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstObject, CstRootNode},
};
use serde_json::Value;
use toml_edit::{DocumentMut, InlineTable, Item, Table};

use crate::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// With comments, which editors allow in theirs.
    Json,
    Toml,
}

impl Format {
    /// `text` with `entry` as `section.name`, in place of one that was there.
    pub(super) fn put(self, text: &str, section: &str, name: &str, entry: &Value) -> Result<String, Failure> {
        match self {
            Self::Json => put_json(text, section, name, entry),
            Self::Toml => put_toml(text, section, name, entry),
        }
    }
}

/// What cannot be read must not be written over.
fn unreadable(why: impl std::fmt::Display) -> Failure {
    Failure::new(format!(
        "cannot be changed safely and was left as it is: {why}; correct it, or use --print and put the entry in yourself"
    ))
}

fn put_json(text: &str, section: &str, name: &str, entry: &Value) -> Result<String, Failure> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        // What JSON editors do not know, the programs do not either.
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let root = CstRootNode::parse(text, &options).map_err(unreadable)?;
    let object = root.object_value_or_create().ok_or_else(|| unreadable("it is no JSON object"))?;
    let servers =
        object.object_value_or_create(section).ok_or_else(|| unreadable(format!("its {section:?} is no object")))?;
    set(&servers, name, entry);
    let text = root.to_string();
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

fn set(object: &CstObject, name: &str, value: &Value) {
    match object.get(name) {
        Some(property) => property.set_value(json_input(value)),
        None => drop(object.append(name, json_input(value))),
    }
    object.ensure_multiline();
}

fn json_input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(flag) => CstInputValue::Bool(*flag),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(json_input).collect()),
        Value::Object(fields) => {
            CstInputValue::Object(fields.iter().map(|(name, value)| (name.clone(), json_input(value))).collect())
        }
    }
}

fn put_toml(text: &str, section: &str, name: &str, entry: &Value) -> Result<String, Failure> {
    let mut document: DocumentMut = text.parse().map_err(|_| unreadable("it is no valid TOML"))?;
    let servers = document.entry(section).or_insert_with(|| {
        let mut servers = Table::new();
        // [mcp_servers.guildhall] says it all; an empty [mcp_servers] above it says nothing.
        servers.set_implicit(true);
        Item::Table(servers)
    });
    let servers = servers.as_table_like_mut().ok_or_else(|| unreadable(format!("its {section} is no table")))?;
    let mut table = Table::new();
    for (key, value) in entry.as_object().into_iter().flatten() {
        table.insert(key, toml_item(value));
    }
    servers.insert(name, Item::Table(table));
    Ok(document.to_string())
}

fn toml_item(value: &Value) -> Item {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
            toml_edit::value(InlineTable::from_iter(fields))
        }
        other => toml_edit::value(other.as_str().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(format: Format, text: &str) -> Result<String, Failure> {
        let section = if format == Format::Json { "mcpServers" } else { "mcp_servers" };
        format.put(
            text,
            section,
            "guildhall",
            &json!({ "url": "http://h/mcp", "headers": { "Authorization": "Bearer t" } }),
        )
    }

    #[test]
    fn everything_else_in_a_json_file_stays_as_it_was_in_its_order_with_its_comments() {
        let before = "{\n  // mine\n  \"zoom\": 1.50,\n  \"mcpServers\": {\n    \"other\": {\"command\":\"x\"}\n  },\n  \"alpha\": [1, 2]\n}\n";
        insta::assert_snapshot!(put(Format::Json, before).unwrap(), @r#"
        {
          // mine
          "zoom": 1.50,
          "mcpServers": {
            "other": {"command":"x"},
            "guildhall": {
              "headers": {
                "Authorization": "Bearer t"
              },
              "url": "http://h/mcp"
            }
          },
          "alpha": [1, 2]
        }
        "#);
    }

    #[test]
    fn connecting_again_replaces_the_entry_and_nothing_else() {
        for (format, before) in
            [(Format::Json, "{\"a\": 1}\n"), (Format::Toml, "# mine\nmodel = \"m\"\n\n[other]\nx = 1\n")]
        {
            let once = put(format, before).unwrap();
            assert_eq!(put(format, &once).unwrap(), once);
        }
    }

    #[test]
    fn everything_else_in_a_toml_file_stays_as_it_was() {
        let before = "# mine\nmodel = \"m\"   # the best\n\n[mcp_servers.other]\ncommand = \"x\"\n\n[tui]\nx = 1\n";
        insta::assert_snapshot!(put(Format::Toml, before).unwrap(), @r#"
        # mine
        model = "m"   # the best

        [mcp_servers.other]
        command = "x"

        [mcp_servers.guildhall]
        headers = { Authorization = "Bearer t" }
        url = "http://h/mcp"

        [tui]
        x = 1
        "#);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused_and_not_written_over() {
        for (format, bad) in [
            (Format::Json, "{\"a\": }"),
            (Format::Json, "[1]"),
            (Format::Json, "{\"mcpServers\": 5}"),
            (Format::Toml, "a = = 1"),
            (Format::Toml, "mcp_servers = 5"),
        ] {
            assert!(put(format, bad).unwrap_err().message().contains("left as it is"), "{bad}");
        }
    }
}
