//! Writes ids into any bytes: the result has both keys and otherwise the same contents. If the keys
//! are new, every original byte is kept. A second write-back changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use taskspan::internals::{existing, splice};

const ENTRIES: [(&str, &str); 2] = [
    ("task_trace_id", "0af7651916cd43dd8448eb211c80319c"),
    ("task_emission_timestamp", "2026-01-02T03:04:05Z"),
];

fuzz_target!(|bytes: &[u8]| {
    let Ok(spliced) = splice(bytes, &ENTRIES) else { return };
    for (key, value) in ENTRIES {
        assert_eq!(existing(&spliced, key).as_deref(), Some(value));
    }
    assert_eq!(splice(&spliced, &ENTRIES).expect("it is an object"), spliced);
    if ENTRIES.iter().all(|(key, _)| existing(bytes, key).is_none())
        && !contains(bytes, b"task_")
        && !contains(bytes, b"\\u")
    {
        let front = bytes.iter().zip(&spliced).take_while(|(a, b)| a == b).count();
        let back = bytes.iter().rev().zip(spliced.iter().rev()).take_while(|(a, b)| a == b);
        assert!(front + back.count() >= bytes.len(), "something that was there has changed");
    }
    let text = |bytes: &[u8]| {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).to_vec();
        serde_json::from_slice::<Value>(&bytes)
    };
    // serde_json refuses deep nesting and numbers out of range. Such texts are not compared.
    if let (Ok(Value::Object(mut before)), Ok(Value::Object(after))) = (text(bytes), text(&spliced))
    {
        before.extend(ENTRIES.map(|(key, value)| (key.to_owned(), Value::from(value))));
        assert_eq!(before, after);
    }
});

fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}
