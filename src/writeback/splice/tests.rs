use proptest::prelude::*;

use serde_json::{Map, Value};

use super::*;
use crate::fs::members::existing;

const TWO: [(&str, &str); 2] = [("k", "v"), ("l", "w")];

fn spliced(original: &str) -> String {
    String::from_utf8(splice(original.as_bytes(), &TWO).unwrap()).unwrap()
}

#[test]
fn every_style_is_continued() {
    for (original, expected) in [
        (r#"{"a": 1, "b":2}"#, r#"{"a": 1, "b":2, "k":"v", "l":"w"}"#),
        (r#"{"a": 1}"#, r#"{"a": 1, "k": "v", "l": "w"}"#),
        (r#"{"a":1}"#, r#"{"a":1,"k":"v","l":"w"}"#),
        (r#"{"a":1,"b":{}}"#, r#"{"a":1,"b":{},"k":"v","l":"w"}"#),
        (r#"{ "a" : 1 }"#, r#"{ "a" : 1, "k" : "v", "l" : "w" }"#),
        ("{\n  \"a\": 1\n}", "{\n  \"a\": 1,\n  \"k\": \"v\",\n  \"l\": \"w\"\n}"),
        ("{\n  \"a\": 1\n}\n", "{\n  \"a\": 1,\n  \"k\": \"v\",\n  \"l\": \"w\"\n}\n"),
        ("{\n\t\"a\": 1\n}", "{\n\t\"a\": 1,\n\t\"k\": \"v\",\n\t\"l\": \"w\"\n}"),
        ("{\r\n \"a\": 1\r\n}\r\n", "{\r\n \"a\": 1,\r\n \"k\": \"v\",\r\n \"l\": \"w\"\r\n}\r\n"),
        ("{\n\"a\":1\n}", "{\n\"a\":1,\n\"k\":\"v\",\n\"l\":\"w\"\n}"),
        ("{\n\n  \"a\": 1\n\n}", "{\n\n  \"a\": 1,\n  \"k\": \"v\",\n  \"l\": \"w\"\n\n}"),
        ("{\r\"a\": 1\r}", "{\r\"a\": 1,\r\"k\": \"v\",\r\"l\": \"w\"\r}"),
        ("{\n \"a\": 1, \"b\": 2\n}", "{\n \"a\": 1, \"b\": 2, \"k\": \"v\", \"l\": \"w\"\n}"),
        ("{\"a\": 1\n,\"b\": 2}", "{\"a\": 1\n,\"b\": 2,\"k\": \"v\",\"l\": \"w\"}"),
        ("\u{feff}{\"a\":1}", "\u{feff}{\"a\":1,\"k\":\"v\",\"l\":\"w\"}"),
        ("{}", r#"{"k": "v", "l": "w"}"#),
        ("{ }", r#"{ "k": "v", "l": "w" }"#),
        ("{\n}", "{\n  \"k\": \"v\",\n  \"l\": \"w\"\n}"),
        ("{\r\n}\r\n", "{\r\n  \"k\": \"v\",\r\n  \"l\": \"w\"\r\n}\r\n"),
        (r#" {"a": 1} "#, r#" {"a": 1, "k": "v", "l": "w"} "#),
        (r#"{"}": "\"}{,:\\"}"#, r#"{"}": "\"}{,:\\", "k": "v", "l": "w"}"#),
        (
            r#"{"a": "\u00e4ä", "n": 1.50e+2, "n": -0}"#,
            r#"{"a": "\u00e4ä", "n": 1.50e+2, "n": -0, "k": "v", "l": "w"}"#,
        ),
    ] {
        assert_eq!(spliced(original), expected, "from {original:?}");
    }
}

#[test]
fn a_python_export_gains_two_lines_and_a_comma() {
    let original = include_str!("../../../examples/sample-export/onboarding-metadata.json");
    let result = spliced(original);
    let (body, close) = original.split_at(original.len() - 2);
    assert_eq!(close, "\n}");
    assert_eq!(result, format!("{body},\n  \"k\": \"v\",\n  \"l\": \"w\"\n}}"));
}

#[test]
fn inserted_text_is_ascii() {
    let bytes = splice(b"{}", &[("\u{e4}\"", "\u{1f600}\n\u{7f}")]).unwrap();
    assert_eq!(bytes, b"{\"\\u00e4\\\"\": \"\\ud83d\\ude00\\n\x7f\"}");
    assert_eq!(existing(&bytes, "\u{e4}\"").as_deref(), Some("\u{1f600}\n\u{7f}"));
}

#[test]
fn anything_else_is_refused() {
    let deep = "[".repeat(1 << 20);
    let utf16: String = "\u{feff}{}".chars().flat_map(|c| [c, '\0']).collect();
    for text in [
        "",
        " ",
        "[]",
        "1",
        "null",
        "\"{}\"",
        "{",
        "{]",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{}x",
        "{}{}",
        "{} \0",
        "{'a':1}",
        "\u{feff}\u{feff}{}",
        &deep,
        &utf16,
    ] {
        assert!(matches!(splice(text.as_bytes(), &TWO), Err(SpliceError::Invalid(_))));
    }
    assert!(matches!(splice(b"{\"a\":\"\xff\"}", &TWO), Err(SpliceError::Invalid(_))));
}

#[test]
fn an_existing_value_is_replaced_in_place() {
    for (text, expected) in [
        (r#"{"l": null, "a": 1}"#, r#"{"l": "w", "a": 1, "k": "v"}"#),
        (r#"{"a": 1, "\u006c" :2}"#, r#"{"a": 1, "\u006c" :"w", "k" :"v"}"#),
        ("{\"l\":[1,\n2],\"k\":\"\\\"}\"}", r#"{"l":"w","k":"v"}"#),
        (r#"{"k": {"l": 1}, "b": ["l"]}"#, r#"{"k": "v", "b": ["l"], "l": "w"}"#),
    ] {
        assert_eq!(spliced(text), expected);
    }
}

#[test]
fn existing_sees_the_top_level_only() {
    assert_eq!(existing(br#"{"a": {"k": "no"}, "k": "yes"}"#, "k").as_deref(), Some("yes"));
    assert_eq!(existing("\u{feff}{\"k\": \"yes\"}".as_bytes(), "k").as_deref(), Some("yes"));
    assert_eq!(existing(br#"{"a": {"k": "no"}}"#, "k"), None);
    assert_eq!(existing(br#"{"k": 1}"#, "k"), None);
    assert_eq!(existing(b"nothing", "k"), None);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|n| Value::from(f64::from(n) / 8.0)),
        any::<String>().prop_map(Value::from),
        r#"[{}\[\],:"\\ a]{0,8}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// White space between two tokens, in several styles.
fn gap() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just(" ".to_owned()), "\r?\n[ \t]{0,4}", "[ \t\r\n]{0,4}",]
}

/// A JSON object, in one style or with different white space in each gap.
fn text() -> impl Strategy<Value = String> {
    let member = ("[^kl]{0,6}", value(), gap(), gap(), gap(), gap());
    let members = prop::collection::vec(member, 0..5);
    (members, gap(), any::<bool>(), any::<bool>(), gap()).prop_map(
        |(members, inner, uniform, bom, end)| {
            let mut text = String::from(if bom { "\u{feff}{" } else { "{" });
            let first: Vec<_> = members.iter().take(1).cloned().collect();
            for (index, member) in members.iter().enumerate() {
                let (key, value, ..) = member;
                let (_, _, a, b, c, d) = if uniform { &first[0] } else { member };
                let comma = if index == 0 { "" } else { "," };
                let key = Value::from(key.as_str());
                text += &format!("{comma}{a}{key}{b}:{c}{value}{d}");
            }
            text + &inner + "}" + &end
        },
    )
}

/// The reader of exports skips values that it does not use. Any export that it accepts must be
/// possible to write back.
#[test]
fn values_that_the_reader_skips_can_be_spliced() {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    for value in ["1e400", r#""\ud83d""#, &deep] {
        let result = spliced(&format!("{{\"a\":{value}}}"));
        assert_eq!(result, format!("{{\"a\":{value},\"k\":\"v\",\"l\":\"w\"}}"));
    }
}

proptest! {
    #[test]
    fn splicing_only_inserts(text in text(), v in any::<String>(), w in any::<String>()) {
        let entries = [("k", v.as_str()), ("l", w.as_str())];
        let result = splice(text.as_bytes(), &entries).unwrap();

        // The common start and end are the whole original, so everything else was inserted between
        // them.
        let same = |(a, b): &(u8, &u8)| a == *b;
        let front = text.bytes().zip(&result).take_while(same).count();
        let back = text.bytes().rev().zip(result.iter().rev()).take_while(same).count();
        prop_assert!(front + back >= text.len());

        let whole = |text: &[u8]| -> Map<String, Value> {
            serde_json::from_slice(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)).unwrap()
        };
        let mut expected = whole(text.as_bytes());
        expected.extend(entries.map(|(key, value)| (key.to_owned(), Value::from(value))));
        let found = whole(&result);
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        prop_assert_eq!(found, expected);
        prop_assert_eq!(existing(&result, "k"), Some(v.clone()));
        prop_assert_eq!(&splice(&result, &entries).unwrap(), &result, "they are there");

        // Other values replace these, and the bytes before and after them stay.
        let again = splice(&result, &[("k", "other"), ("l", w.as_str())]).unwrap();
        let back = splice(&again, &entries).unwrap();
        prop_assert_eq!(back, result);
        prop_assert_eq!(existing(&again, "k"), Some("other".to_owned()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = splice(&bytes, &TWO);
    }

    #[test]
    fn arbitrary_tokens_never_panic(text in r#"[{}\[\],:"\\ 1ak\r\n]{0,24}"#) {
        if let Ok(result) = splice(text.as_bytes(), &TWO) {
            prop_assert!(parse(&result).is_ok());
        }
    }
}
