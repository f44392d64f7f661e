//! What filters promise, and what hostile ones meet.

use std::time::{Duration, Instant};

use guildhall_domain::{ErrorCode, Timestamp, event::TopicEvent, mail::Body, ports::bus::Topic};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// What one evaluation may take in a debug build, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(3);

fn event(content: &Value) -> TopicEvent {
    TopicEvent {
        topic: Topic::new("ci.done").unwrap(),
        sequence: 42,
        published_at: "2026-11-20T10:00:00.250Z".parse::<Timestamp>().unwrap(),
        publisher: "builder-1".into(),
        headers: json!({ "kind": "build", "x-trace": "1" }).as_object().unwrap().clone(),
        event: Body::from_value(content).unwrap(),
    }
}

fn matches(filter: &str, content: &Value) -> bool {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&event(content))
}

fn refusal(filter: &str) -> String {
    let error = Filter::parse(filter).expect_err(filter);
    assert_eq!(error.code, ErrorCode::InvalidParams, "{error}");
    error.message.into_owned()
}

#[test]
fn a_filter_sees_content_headers_and_envelope() {
    let content = json!({ "kind": "build", "branch": "main", "count": 3, "ratio": 0.5, "tags": ["a", "bb"],
        "author": { "name": "Ada", "langs": ["de", "en"] }, "none": null, "odd name": true });
    for filter in [
        "event.kind == 'build'",
        "event.count > 2 && event.count + 1 == 4",
        "event.ratio < 1.0 && event.count < 3.5",
        "event.author.name.startsWith('A') && event.author.langs[1] == 'en'",
        "'bb' in event.tags && !('c' in event.tags)",
        "event.tags.exists(tag, tag.size() == 2)",
        "event.tags.all(tag, tag.matches('^[a-z]+$'))",
        "event.tags.filter(tag, size(tag) > 1) == ['bb']",
        "event.tags.map(tag, tag + '!') == ['a!', 'bb!']",
        "event.tags.exists_one(tag, tag == 'a')",
        "event.author.exists(field, field == 'name')",
        "has(event.branch) && !has(event.missing)",
        "event.none == null && event['odd name']",
        "headers.kind == 'build' && headers['x-trace'] == '1' && !has(headers.other)",
        "topic == 'ci.done' && publisher == 'builder-1' && sequence == 42",
        "published_at > timestamp('2026-11-20T09:00:00Z') && published_at < timestamp('2026-11-20T10:00:01Z')",
        "published_at.getHours() == 10 && published_at - duration('1h') < published_at",
        "type(event.count) == int && type(event.kind) == string",
        "event.branch.contains('ai') ? event.count == 3 : false",
        "event.tags.exists(event, event == 'a')",
        "true",
    ] {
        assert!(matches(filter, &content), "{filter} does not match");
    }
    for filter in
        ["event.kind == 'test'", "event.count > 3", "event.tags.all(tag, tag == 'a')", "false", "headers.kind == 'x'"]
    {
        assert!(!matches(filter, &content), "{filter} matches");
    }
}

#[test]
fn what_cannot_be_evaluated_or_is_no_boolean_does_not_match() {
    let content = json!({ "count": 3, "text": "x", "list": [1] });
    for filter in [
        "event.missing == 1",
        "event.missing.deeper == 1",
        "event.text > 3",
        "event.count + 'x' == ''",
        "event.list[7] == 1",
        "event.count / 0 == 1",
        "event.text.matches('x') && event.count.matches('x')",
        "event.count",
        "event",
        "'text'",
        "1",
        "timestamp('not a time') == published_at",
        "published_at + duration('9000000000000s') > published_at",
    ] {
        assert!(!matches(filter, &content), "{filter} matches");
    }
    for odd in [json!(null), json!([]), json!("x"), json!(1)] {
        assert!(!matches("event.kind == 'build'", &odd));
    }
}

#[test]
fn a_number_is_what_json_wrote_whatever_its_size() {
    let content = r#"{"big":18446744073709551615,"neg":-9223372036854775808,"float":1.0}"#;
    let event = TopicEvent { event: Body::from_text(content).unwrap(), ..event(&json!(null)) };
    for filter in ["event.big == 18446744073709551615u", "event.neg < 0", "event.float == 1"] {
        assert!(Filter::parse(filter).unwrap().matches(&event), "{filter}");
    }
}

#[test]
fn a_filter_that_cannot_be_used_is_refused_with_the_place_and_what_is_wrong() {
    for (filter, place, what) in [
        ("event.kind ==", "line 1", "column"),
        ("event.kind === 'x'", "line 1", "column 14"),
        ("", "line 1", "column"),
        ("kind == 'build'", "line 1, column 1", "no variable kind; there are event, headers"),
        ("true &&\n  other", "line 2, column 3", "no variable other"),
        ("event.tags.exists(tag, tagg == 'a')", "line 1, column 24", "no variable tagg"),
        ("event.tags.exists(tag, true) && tag == 'a'", "line 1, column 33", "no variable tag"),
        ("event.kind.upper() == 'X'", "line 1", "no function upper"),
        ("shell('rm')", "line 1", "no function shell"),
        ("event.a.matches('(')", "line 1, column 17", "not a regular expression"),
        ("event.a.matches('(a{1000}){1000}')", "line 1, column 17", "compiled"),
        ("event.a.matches(event.b)", "line 1", "must be written out"),
        ("event.a.matches('a', 'b')", "line 1", "takes a text and a pattern"),
        ("Event{kind: 'x'}", "line 1", "no type Event"),
        ("event.a ? event.?b : 1", "line 1", "unsupported syntax"),
        ("@budget == 1", "line 1", "column"),
    ] {
        let refusal = refusal(filter);
        assert!(refusal.contains(place) && refusal.contains(what), "{filter}: {refusal}");
    }
    let five = ["event.a.matches('x')"; 5].join("||");
    assert!(refusal(&five).contains("more than 4 patterns"));
    assert!(refusal(&format!("event.a == '{}'", "x".repeat(FILTER_MAX_BYTES))).contains("at most 2048"));
}

/// Each as long as a filter may be, on the small stack of a test's thread.
#[test]
fn text_that_nests_as_deep_as_it_is_long_is_refused_and_overflows_nothing() {
    let long = FILTER_MAX_BYTES;
    let fill = |unit: &str, rest: &str| format!("{}{rest}", unit.repeat((long - rest.len()) / unit.len()));
    let pairs = |open: &str, inner: &str, close: &str| {
        let times = (long - inner.len()) / (open.len() + close.len());
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    for hostile in [
        fill("(", ""),
        fill("[", ""),
        fill("{", ""),
        fill("!", "true"),
        fill("-", "1"),
        fill("- ", "1"),
        fill("!-", "1"),
        pairs("(", "true", ")"),
        pairs("[", "1", "]"),
        pairs("{1:", "1", "}"),
        pairs("!(", "true", ")"),
        fill("1+", "1"),
        fill("true&&(", "true"),
        fill("true?true:", "true"),
        pairs("true?", "true", ":true"),
        format!("event{}", fill(".a", "")),
        format!("event{}", fill("[0]", "").split_at(long - 8).0.trim_end_matches(['[', '0'])),
        format!("event{}", ".f()".repeat(500)),
        pairs("f(", "1", ")"),
        pairs("[1].map(a,", "1", ")"),
        pairs("[1].exists(a,", "true", ")"),
        pairs("has(event.a) && (", "true", ")"),
        fill("\"", ""),
        fill("'''", ""),
        fill("\\", ""),
        fill("\u{0}", ""),
        fill("ä", ""),
        fill("event.a.matches('", ""),
        fill("0x", ""),
        "9".repeat(long),
        "`".repeat(long),
    ] {
        let start = Instant::now();
        let parsed = Filter::parse(&hostile);
        assert!(start.elapsed() < PATIENCE, "{:.40}… took {:?}", hostile, start.elapsed());
        if let Err(error) = parsed {
            assert!(error.message.len() < 1_500, "{error}");
        }
    }
    assert!(Filter::parse(&"(".repeat(100_000)).is_err());
    assert!(refusal(&fill("1+", "1")).contains("nests more than"));
}

/// Without a break the conjunction of what an agent writes by hand is as deep as it is long.
#[test]
fn a_filter_as_people_write_it_is_not_taken_for_a_deep_one() {
    let terms: Vec<String> = (0..30).map(|i| format!("event.field_{i} == {i}")).collect();
    assert!(matches(&terms.join(" || "), &json!({ "field_29": 29 })));
    assert!(!matches(&terms.join(" && "), &json!({ "field_29": 29 })));
}

#[test]
fn no_filter_burns_a_core_whatever_it_is_shown() {
    let numbers = json!({ "list": vec![1; 30_000] });
    let text = json!({ "text": "a".repeat(60_000), "list": vec![1; 2_000] });
    for (filter, content) in [
        ("event.list.all(a, event.list.all(b, event.list.all(c, true)))", &numbers),
        ("event.list.exists(a, event.list.exists(b, a + b == 3))", &numbers),
        ("event.list.map(a, event.list).map(a, event.list).size() > 0", &numbers),
        ("event.list.map(a, event.list.map(b, event.list)) == []", &numbers),
        ("event.list.filter(a, event == event) == []", &numbers),
        ("event.list.all(a, 7 in event.list || true)", &numbers),
        ("event.list.all(a, event.text.contains('aaaaaaaaaaaaaaaaaaaaaaaaaaaab') || true)", &text),
        ("event.list.all(a, event.text.matches('(a*)*b') || true)", &text),
        ("event.list.all(a, event.text + event.text != '')", &text),
        ("event.list.map(a, event.text).map(a, a + a).map(a, a + a).size() > 0", &text),
        ("event.list.all(a, string(event.text) != '' && size(event.text) > 1)", &text),
        ("event.list.map(a, {a: event.list}).size() > 0", &numbers),
        ("event.list.map(a, [event.list, event.list]).size() > 0", &numbers),
        ("event.list.exists_one(a, event.list.exists_one(b, true))", &numbers),
    ] {
        let (filter_, event) = (Filter::parse(filter).unwrap(), event(content));
        let facts = Facts::of(&event).unwrap();
        let start = Instant::now();
        let matched = filter_.matches_facts(&facts);
        assert!(start.elapsed() < PATIENCE, "{filter} took {:?}", start.elapsed());
        assert!(!matched, "{filter} matched although it was stopped");
    }
    // The sum of macros within macros within one text, on no data at all.
    let bomb = (0..12).fold("true".to_owned(), |inner, i| format!("[1,2,3,4,5,6,7,8,9].all(x{i}, {inner})"));
    let start = Instant::now();
    assert!(!matches(&bomb, &json!(null)));
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn one_look_at_everything_in_a_large_event_is_within_the_budget() {
    let content = json!({ "list": vec![1; 10_000], "text": "x".repeat(40_000) });
    assert!(matches("event.list.all(n, n < 2)", &content));
    assert!(matches("event.list.exists(n, n == 2) || event.list.size() == 10000", &content));
    assert!(matches("event.text.matches('^x+$') && event.text.contains('xx')", &content));
}

#[test]
fn content_too_deep_to_read_matches_nothing() {
    let text = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let event = TopicEvent { event: Body::from_text(text).unwrap(), ..event(&json!(null)) };
    assert!(!Filter::parse("true").unwrap().matches(&event));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_ends_the_process(text in "\\PC{0,200}") {
        let _ = Filter::parse(&text).map(|filter| filter.matches(&event(&json!({ "a": [1, "x"] }))));
    }

    #[test]
    fn no_sentence_of_the_languages_own_words_ends_the_process(words in prop::collection::vec(
        prop::sample::select(vec![
            "event", ".", "a", "(", ")", "[", "]", "{", "}", "1", "-", "!", "&&", "||", "?", ":", ",", "'x'", "==", "in",
            "+", "*", "/", "%", "<", ".map(x,", ".all(x,", ".exists(x,", ".matches('a')", "has(", "size(", "timestamp(",
            "duration(", "published_at", "9223372036854775807", "-9223372036854775808", "0u", "1.5", "x", "null", "true",
            "int(", "string(", "\"", "headers", "type(",
        ]), 1..40)
    ) {
        let text = words.concat();
        let _ = Filter::parse(&text).map(|filter| filter.matches(&event(&json!({ "a": [1, "x", { "a": 2 }] }))));
    }
}
