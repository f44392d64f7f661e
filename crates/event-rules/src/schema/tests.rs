//! What a schema takes and refuses, and which changes of it are called compatible.

use guildhall_domain::ErrorCode;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn check(schema: &Value, content: &Value) -> Result<()> {
    Schema::compile(schema)?.check(&Body::from_value(content).unwrap())
}

fn refused(schema: &Value) -> String {
    let error = Schema::compile(schema).expect_err(&schema.to_string());
    assert_eq!(error.code, ErrorCode::InvalidParams, "{error}");
    error.message.into_owned()
}

#[test]
fn an_event_that_does_not_fit_is_refused_with_every_fault_and_its_place() {
    let schema = json!({
        "type": "object", "required": ["kind", "author"], "additionalProperties": false,
        "properties": {
            "kind": { "enum": ["build", "test"] },
            "author": { "type": "object", "properties": { "name": { "type": "string", "minLength": 2 } } },
            "steps": { "type": "array", "items": { "type": "integer", "minimum": 0 } },
            "when": { "type": "string", "format": "date-time" },
            "id": { "type": "string", "pattern": "^[a-z]+$" },
        },
    });
    check(
        &schema,
        &json!({ "kind": "build", "author": { "name": "Ada" }, "steps": [0, 1], "when": "2026-11-20T10:00:00Z" }),
    )
    .unwrap();
    let wrong =
        json!({ "kind": "x", "author": { "name": "A" }, "steps": [1, -1, "2"], "when": "now", "id": "A", "more": 1 });
    let error = check(&schema, &wrong).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParams);
    for part in [
        "at /kind: ",
        "at /author/name: ",
        "at /steps/1: ",
        "at /steps/2: ",
        "at /when: ",
        "at /id: ",
        "at /: ",
        "'more'",
    ] {
        assert!(error.message.contains(part), "{part} is not in {error}");
    }
    let error = check(&schema, &json!({})).unwrap_err();
    assert!(error.message.contains("kind") && error.message.contains("author"), "{error}");
}

#[test]
fn ten_faults_are_named_and_the_others_counted() {
    let schema = json!({ "items": { "type": "string" } });
    let error = check(&schema, &json!(vec![1; 50])).unwrap_err();
    assert!(error.message.contains("at /9: ") && !error.message.contains("at /10: "), "{error}");
    assert!(error.message.ends_with("and 40 more"), "{error}");
    let long = check(&json!({ "type": "integer" }), &json!("x".repeat(60_000))).unwrap_err();
    assert!(long.message.len() < 400, "{} bytes of an event are repeated in an error", long.message.len());
}

#[test]
fn a_schema_that_cannot_be_used_is_refused_with_the_place() {
    assert!(refused(&json!({ "properties": { "a": { "type": "text" } } })).contains("/properties/a/type"));
    assert!(refused(&json!({ "properties": { "a": { "pattern": "(" } } })).contains("/properties/a/pattern"));
    assert!(refused(&json!({ "$ref": "#/$defs/missing" })).contains("$ref #/$defs/missing is not a place"));
    assert!(refused(&json!({ "$defs": { "a": { "$id": "x" } }, "$ref": "#/$defs/a" })).contains("$id below the root"));
    assert!(refused(&json!({ "$dynamicRef": "#a" })).contains("$dynamicRef is not taken"));
    assert!(refused(&json!({ "required": "a" })).contains("/required"));
    assert!(refused(&json!([])).contains("is a JSON object"));
    assert!(refused(&json!({ "$schema": "https://example.com/mine" })).contains("no draft that is known"));
    assert!(refused(&json!({ "$comment": "x".repeat(SCHEMA_MAX_BYTES) })).contains("at most 65536"));
}

#[test]
fn nothing_is_fetched_for_a_schema() {
    for elsewhere in
        ["http://127.0.0.1:1/x.json", "https://json.schemastore.org/package.json", "file:///etc/passwd", "other.json"]
    {
        let refusal = refused(&json!({ "properties": { "a": { "$ref": elsewhere } } }));
        assert!(refusal.contains("nothing is fetched"), "{elsewhere}: {refusal}");
        refused(&json!({ "$defs": { "unused": { "$ref": elsewhere } } }));
    }
}

#[test]
fn a_pattern_takes_time_linear_in_the_text() {
    let schema = json!({ "pattern": "^(a+)+$" });
    let start = std::time::Instant::now();
    check(&schema, &json!(format!("{}b", "a".repeat(60_000)))).unwrap_err();
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(
        refused(&json!({ "pattern": "(a)\\1" })).contains("/pattern"),
        "a pattern that needs backtracking was taken"
    );
    refused(&json!({ "pattern": "((a{1000}){1000}){1000}" }));
}

#[test]
fn a_schema_whose_branches_multiply_is_refused_and_one_that_describes_a_tree_is_not() {
    let twice = |next: &str| json!({ "anyOf": [{ "$ref": next }, { "$ref": next }] });
    let mut layers = serde_json::Map::new();
    for i in 0..40 {
        layers.insert(format!("d{i}"), twice(&format!("#/$defs/d{}", i + 1)));
    }
    layers.insert("d40".into(), json!({ "type": "null" }));
    assert!(refused(&json!({ "$defs": layers, "$ref": "#/$defs/d0" })).contains("multiply"));
    let twelve = vec![json!({ "$ref": "#" }); 12];
    assert!(
        refused(&json!({ "properties": { "a": { "anyOf": twelve } }, "allOf": vec![json!({}); 10] }))
            .contains("multiply")
    );
    let both = json!({ "properties": { "a": { "$ref": "#" } }, "patternProperties": { "a": { "$ref": "#" } } });
    for doubling in [json!({ "properties": { "a": twice("#") } }), both] {
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        check(&doubling, &nested(8)).unwrap();
        let start = std::time::Instant::now();
        let error = check(&doubling, &nested(40)).unwrap_err();
        assert!(error.message.contains("nests 40 levels deep"), "{error}");
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    }
    for endless in
        [json!({ "$ref": "#" }), json!({ "allOf": [{ "$ref": "#/allOf/0" }] }), json!({ "not": { "$ref": "#" } })]
    {
        assert!(refused(&endless).contains("without end"), "{endless}");
    }
    let mut chain = serde_json::Map::new();
    for i in 0..1_000 {
        chain.insert(format!("d{i}"), json!({ "$ref": format!("#/$defs/d{}", i + 1) }));
    }
    chain.insert("d1000".into(), json!({}));
    assert!(refused(&json!({ "$defs": chain, "$ref": "#/$defs/d0" })).contains("nest more than"));

    let tree = json!({
        "$defs": { "node": {
            "oneOf": [
                { "type": "string" },
                { "type": "object", "required": ["left"], "properties": { "left": { "$ref": "#/$defs/node" }, "right": { "$ref": "#/$defs/node" } } },
                { "type": "array", "items": { "$ref": "#/$defs/node" } },
            ],
        } },
        "$ref": "#/$defs/node",
    });
    check(&tree, &json!({ "left": ["a", { "left": "b", "right": ["c"] }] })).unwrap();
    check(&tree, &json!({ "left": ["a", { "left": 1 }] })).unwrap_err();
    let deep = (0..100).fold(json!("leaf"), |inner, _| json!({ "left": inner }));
    check(&tree, &deep).unwrap();
}

#[test]
fn an_older_draft_is_read_as_it_says() {
    let draft_4 =
        json!({ "$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": true });
    check(&draft_4, &json!(3)).unwrap_err();
    check(&draft_4, &json!(4)).unwrap();
    let newest = json!({ "prefixItems": [{ "type": "string" }], "items": false });
    check(&newest, &json!(["a"])).unwrap();
    check(&newest, &json!(["a", "b"])).unwrap_err();
}

fn reasons(old: Value, new: Value) -> Vec<String> {
    Schema::compile(&old).unwrap();
    Schema::compile(&new).unwrap();
    Schema::compatible(&old, &new)
}

#[test]
fn a_change_that_takes_all_that_was_good_is_compatible() {
    let object = json!({ "type": "object", "required": ["a"], "properties": { "a": { "type": "integer" } } });
    for (old, new) in [
        (object.clone(), object.clone()),
        (object.clone(), json!(true)),
        (object.clone(), json!({})),
        (json!(false), object.clone()),
        (object.clone(), json!({ "type": "object", "properties": { "a": { "type": "number" } } })),
        (
            object,
            json!({ "type": ["object", "null"], "required": ["a"], "properties": { "a": { "type": ["integer", "string"] } } }),
        ),
        (
            json!({ "additionalProperties": false, "type": "object" }),
            json!({ "type": "object", "properties": { "b": { "type": "string" } } }),
        ),
        (json!({ "enum": ["a", "b"] }), json!({ "enum": ["c", "b", "a"] })),
        (json!({ "enum": ["a", "bb"] }), json!({ "type": "string", "minLength": 1, "pattern": "^[a-b]+$" })),
        (json!({ "const": 3 }), json!({ "minimum": 0 })),
        (json!({ "type": "boolean" }), json!({ "enum": [true, false, "maybe"] })),
        (
            json!({ "type": "string", "minLength": 2, "maxLength": 5 }),
            json!({ "minLength": 1, "maxLength": 9, "minimum": 7 }),
        ),
        (
            json!({ "type": "integer", "exclusiveMinimum": 0, "maximum": 9 }),
            json!({ "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 1 }),
        ),
        (json!({ "type": "integer", "multipleOf": 6 }), json!({ "multipleOf": 3 })),
        (json!({ "type": "array", "maxItems": 1 }), json!({ "uniqueItems": true })),
        (
            json!({ "type": "array", "prefixItems": [{ "type": "string" }], "items": false }),
            json!({ "items": { "type": "string" } }),
        ),
        (json!({ "$defs": { "n": { "type": "integer" } }, "$ref": "#/$defs/n" }), json!({ "type": "number" })),
        (
            json!({ "type": "integer" }),
            json!({ "$defs": { "n": { "type": "number" } }, "allOf": [{ "$ref": "#/$defs/n" }, {}] }),
        ),
        (json!({ "type": "string" }), json!({ "anyOf": [{ "type": "integer" }, { "type": "string" }] })),
        (
            json!({ "anyOf": [{ "type": "integer" }, { "type": "string" }] }),
            json!({ "anyOf": [{ "type": "string" }, { "type": "number" }] }),
        ),
        (json!({ "oneOf": [{ "const": 1 }, { "const": 2 }] }), json!({ "type": "integer" })),
        (json!({ "not": { "type": "null" }, "title": "a" }), json!({ "not": { "type": "null" }, "title": "b" })),
        (
            json!({ "properties": { "next": { "$ref": "#" }, "n": { "type": "integer" } } }),
            json!({ "properties": { "next": { "$ref": "#" }, "n": { "type": "number" } } }),
        ),
    ] {
        assert_eq!(reasons(old.clone(), new.clone()), Vec::<String>::new(), "{old} to {new}");
    }
}

#[test]
fn each_reason_against_a_change_names_its_place() {
    let named = |name: &str, schema: Value| json!({ "type": "object", "properties": { name: schema } });
    for (old, new, place, what) in [
        (
            json!({ "type": "object" }),
            json!({ "type": "object", "required": ["a"] }),
            "at /:",
            "field a is required now",
        ),
        (
            named("a", json!({ "type": "number" })),
            named("a", json!({ "type": "integer" })),
            "at /a:",
            "number with a fraction is no longer allowed",
        ),
        (
            named("a", json!({})),
            named("a", json!({ "type": "string" })),
            "at /a:",
            "null or boolean or object or array or number is no longer",
        ),
        (
            named("a", json!({ "enum": [1, 2] })),
            named("a", json!({ "enum": [2] })),
            "at /a:",
            "the value 1 is no longer allowed",
        ),
        (
            named("a", json!({ "type": "string" })),
            named("a", json!({ "enum": ["x"] })),
            "at /a:",
            "enum allows certain values only",
        ),
        (
            json!({ "type": "object" }),
            json!({ "type": "object", "additionalProperties": false }),
            "at /*:",
            "not named are no longer allowed",
        ),
        (
            named("a", json!({})),
            json!({ "type": "object", "additionalProperties": false }),
            "at /a:",
            "no longer allowed",
        ),
        (json!({ "type": "object" }), named("a", json!({ "type": "string" })), "at /a:", "could be anything before"),
        (
            named("a", json!({ "type": "string" })),
            named("a", json!({ "type": "string", "maxLength": 3 })),
            "at /a:",
            "maxLength is 3",
        ),
        (named("a", json!({ "minimum": 1 })), named("a", json!({ "minimum": 2 })), "at /a:", "minimum is 2"),
        (
            named("a", json!({ "maximum": 1 })),
            named("a", json!({ "exclusiveMaximum": 1 })),
            "at /a:",
            "exclusiveMaximum is 1",
        ),
        (
            named("a", json!({ "type": "string" })),
            named("a", json!({ "type": "string", "pattern": "x" })),
            "at /a:",
            "pattern",
        ),
        (
            named("a", json!({ "type": "string", "format": "uri" })),
            named("a", json!({ "type": "string", "format": "date" })),
            "at /a:",
            "format",
        ),
        (
            named("a/b", json!({ "items": { "type": "number" } })),
            named("a/b", json!({ "items": { "type": "string" } })),
            "at /a~1b/*:",
            "number",
        ),
        (json!({ "type": "array" }), json!({ "type": "array", "uniqueItems": true }), "at /:", "uniqueItems"),
        (json!({}), json!({ "not": { "type": "null" } }), "at /:", "not was added or changed"),
        (json!({}), json!({ "oneOf": [{}, { "type": "null" }] }), "at /:", "oneOf cannot be shown"),
        (json!({}), json!({ "anyOf": [{ "type": "null" }] }), "at /:", "anyOf cannot be shown"),
        (
            json!({ "type": "object" }),
            json!({ "type": "object", "unevaluatedProperties": false }),
            "at /:",
            "unevaluatedProperties",
        ),
        (json!({}), json!(false), "at /:", "nothing is allowed"),
        (
            json!({ "properties": { "next": { "$ref": "#" }, "n": { "type": "number" } } }),
            json!({ "properties": { "next": { "$ref": "#" }, "n": { "type": "integer" } } }),
            "at /n:",
            "fraction",
        ),
        (
            json!({ "$defs": { "n": { "type": "number" } }, "not": { "$ref": "#/$defs/n" } }),
            json!({ "$defs": { "n": { "type": "string" } }, "not": { "$ref": "#/$defs/n" } }),
            "at /:",
            "not was added or changed",
        ),
        (json!({}), json!({ "$schema": "http://json-schema.org/draft-07/schema#" }), "at /:", "2020-12"),
    ] {
        let reasons = reasons(old.clone(), new.clone());
        assert!(
            reasons.iter().any(|reason| reason.starts_with(place) && reason.contains(what)),
            "{old} to {new}: {reasons:?}"
        );
    }
}

#[test]
fn schemas_that_could_be_compared_for_ever_are_not() {
    let start = std::time::Instant::now();
    let bush = |leaf: &str| {
        let leaves: Vec<_> = (0..8).map(|_| json!({ "$ref": "#/$defs/a" })).collect();
        json!({ "$defs": { "a": { "anyOf": leaves } }, "properties": { "x": { "anyOf": leaves } }, "title": leaf })
    };
    assert!(!Schema::compatible(&bush("a"), &json!({ "anyOf": [{ "$ref": "#" }, { "type": "string" }] })).is_empty());
    let layered = |last: &str| {
        let mut defs = serde_json::Map::new();
        for i in 0..30 {
            let next = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
            defs.insert(format!("d{i}"), json!({ "anyOf": [next, next, { "type": "string" }] }));
        }
        defs.insert("d30".into(), json!({ "type": last }));
        json!({ "$defs": defs, "$ref": "#/$defs/d0" })
    };
    let reasons = Schema::compatible(&layered("integer"), &layered("null"));
    assert!(!reasons.is_empty());
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Small schemas over few names, so that two of them often meet.
fn any_schema() -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec!["null", "boolean", "object", "array", "string", "number", "integer"]);
    let leaf = prop_oneof![
        3 => types.clone().prop_map(|name| json!({ "type": name })),
        1 => prop::collection::vec(types, 1..3).prop_map(|mut names| { names.sort_unstable(); names.dedup(); json!({ "type": names }) }),
        1 => (0..4_i64, 0..4_i64).prop_map(|(least, most)| json!({ "type": "integer", "minimum": least, "maximum": most })),
        1 => (0..4_i64).prop_map(|bound| json!({ "exclusiveMinimum": bound })),
        1 => (1..5_i64).prop_map(|step| json!({ "multipleOf": step })),
        1 => (0..3_u64, 0..3_u64).prop_map(|(least, most)| json!({ "minLength": least, "maxLength": most })),
        1 => Just(json!({ "pattern": "^a" })),
        1 => prop::collection::vec(any_value(), 1..4).prop_map(|mut values| { values.dedup(); json!({ "enum": values }) }),
        1 => any_value().prop_map(|value| json!({ "const": value })),
        1 => Just(json!(true)),
        1 => Just(json!(false)),
        1 => Just(json!({})),
        1 => Just(json!({ "$ref": "#/$defs/d" })),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let names = || prop::sample::select(vec!["a", "b", "c"]);
        let fields = prop::collection::btree_map(names(), inner.clone(), 0..3);
        let object = (fields, prop::collection::btree_set(names(), 0..2), prop::option::of(inner.clone()), prop::option::of((0..3_u64, 0..3_u64)))
            .prop_map(|(fields, required, others, counts)| {
                let mut schema = json!({ "properties": fields, "required": required });
                if let Some(others) = others {
                    schema["additionalProperties"] = others;
                }
                if let Some((least, most)) = counts {
                    schema["minProperties"] = json!(least);
                    schema["maxProperties"] = json!(most);
                }
                schema
            });
        let array = (prop::collection::vec(inner.clone(), 0..3), inner.clone(), 0..3_u64, 0..4_u64, any::<bool>()).prop_map(
            |(first, rest, least, most, unique)| {
                let mut schema = json!({ "items": rest, "minItems": least, "maxItems": most, "uniqueItems": unique });
                if !first.is_empty() {
                    schema["prefixItems"] = json!(first);
                }
                schema
            },
        );
        let several = prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            4 => object,
            2 => array,
            1 => (prop::sample::select(vec!["allOf", "anyOf", "oneOf"]), several).prop_map(|(keyword, several)| json!({ keyword: several })),
            1 => inner.clone().prop_map(|not| json!({ "not": not })),
            1 => inner.clone().prop_map(|within| json!({ "patternProperties": { "^a": within } })),
            1 => (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| json!({ "if": a, "then": b, "else": c })),
            1 => (names(), names()).prop_map(|(a, b)| json!({ "dependentRequired": { a: [b] } })),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|yes| json!(yes)),
        (0..5_i64).prop_map(|n| json!(n)),
        Just(json!(1.5)),
        Just(json!(2.0)),
        prop::sample::select(vec!["", "a", "ab", "b", "bbb"]).prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(2, 10, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "ab"]), inner, 0..4)
                .prop_map(|fields| json!(fields)),
        ]
    })
}

/// One of the two with something taken from the other, or loosened: schemas as they follow one another.
fn two_schemas() -> impl Strategy<Value = (Value, Value)> {
    let with = |definition: Value, schema: Value| match schema {
        Value::Object(mut fields) => {
            fields.insert("$defs".into(), json!({ "d": definition }));
            Value::Object(fields)
        }
        other => other,
    };
    (any_schema(), any_schema(), any_schema(), any::<u8>()).prop_map(move |(one, other, definition, how)| {
        let definition =
            if definition.to_string().contains("$ref") { json!({ "type": "integer" }) } else { definition };
        let new = match how % 6 {
            0 => other,
            1 => json!({ "anyOf": [&one, &other] }),
            2 => json!({ "allOf": [&one, &other] }),
            3 => one.as_object().map_or_else(
                || json!({}),
                |fields| fields.iter().skip(1).map(|(name, value)| (name.clone(), value.clone())).collect(),
            ),
            4 => match (one.clone(), other) {
                (Value::Object(mut fields), Value::Object(more)) => {
                    fields.extend(more);
                    Value::Object(fields)
                }
                (one, _) => one,
            },
            _ => json!({ "properties": { "a": one } }),
        };
        let old = if how % 6 == 5 { json!({ "properties": { "a": one }, "required": ["a"] }) } else { one };
        (with(definition.clone(), old), with(definition, new))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn what_fits_the_old_schema_fits_a_new_one_that_is_called_compatible(
        (old, new) in two_schemas(), values in prop::collection::vec(any_value(), 40)
    ) {
        let (Ok(before), Ok(after)) = (Schema::compile(&old), Schema::compile(&new)) else { return Ok(()) };
        if Schema::compatible(&old, &new).is_empty() {
            for value in values {
                prop_assert!(!before.is_valid(&value) || after.is_valid(&value), "{value} fits {old} and not {new}");
            }
        }
    }
}
