//! Estimates the memory that an export takes, before it is parsed.
//!
//! ```text
//! text ─▶ commas, colons, braces, brackets outside strings ─▶ bytes ─▶ claimed, or more than allowed
//! ```
//!
//! A parsed value takes far more memory than its text: a list of 200,000 short ids is 1.5 MB of
//! text, and 220 MB as artifacts with their spans. The weights are measured, by the peak memory of
//! exports with millions of values of one kind. They include the conversion to requests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Memory for a value in an array or an object, in bytes. Each value but the first has a comma.
const VALUE: u64 = 170;
/// Memory for the key of a member of an object, in addition to its value, in bytes.
const KEY: u64 = 80;
/// Memory for an object, in bytes.
const OBJECT: u64 = 320;
/// Memory for an array, in bytes.
const ARRAY: u64 = 50;
/// Memory for what becomes an artifact and its span, in bytes: nearly every value in `coverage`, and
/// every member of the sections that are keyed by artifact.
const ARTIFACT: u64 = 1_100;

/// Size of a buffer above which it rarely fits into memory that was freed before, in bytes.
const LARGE: u64 = 16 << 20;

/// The memory that one export may take, and how much of it is claimed.
#[derive(Debug)]
pub(super) struct Claims {
    max: u64,
    claimed: AtomicU64,
}

impl Claims {
    /// Allows `max` bytes.
    pub(super) fn new(max: u64) -> Claims {
        Claims { max, claimed: AtomicU64::new(0) }
    }

    /// Claims memory. Returns false if all claims together exceed the maximum.
    pub(super) fn claim(&self, bytes: u64) -> bool {
        self.claimed.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.max
    }

    /// Returns the memory that is not claimed yet, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.max.saturating_sub(self.claimed.load(Ordering::Relaxed))
    }

    /// Returns all claims together in bytes, if they exceed the maximum.
    pub(super) fn excess(&self) -> Option<u64> {
        let claimed = self.claimed.load(Ordering::Relaxed);
        (claimed > self.max).then_some(claimed)
    }
}

/// The estimates for one JSON text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    /// For the whole value.
    pub(super) whole: u64,
    /// For the largest member of the outermost object, for readers that keep one at a time.
    pub(super) largest_member: u64,
    /// Number of members of the outermost object. At least 1.
    members: u64,
}

impl Estimate {
    /// Returns the estimate for a section whose members become artifacts.
    pub(super) fn of_artifacts(&self) -> u64 {
        self.whole + self.members * ARTIFACT
    }
}

/// Estimates the memory of a file's bytes.
pub(super) fn of_file(size: u64) -> u64 {
    size + size.saturating_sub(LARGE)
}

/// Estimates the memory of a JSON text, without the text itself.
pub(super) fn of_json(text: &[u8]) -> Estimate {
    let (mut whole, mut largest, mut member, mut depth) = (0_u64, 0, 0_u64, 0_u32);
    let mut members = 1;
    each_structural(text, |byte| {
        let bytes = match byte {
            b',' => VALUE,
            b':' => KEY,
            b'{' => OBJECT,
            b'[' => ARRAY,
            _ => 0,
        };
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => {
                largest = largest.max(member);
                member = 0;
                members += 1;
            }
            _ => {}
        }
        whole += bytes;
        member += bytes;
    });
    Estimate { whole, largest_member: largest.max(member), members }
}

/// Estimates the memory of the `coverage` section, without the text itself.
pub(super) fn of_coverage(text: &[u8]) -> u64 {
    let mut values = 1;
    each_structural(text, |byte| values += u64::from(byte == b','));
    values * ARTIFACT
}

/// Estimates the memory of a YAML text, without the text itself. Commas in strings count, too.
pub(super) fn of_yaml(text: &[u8]) -> u64 {
    let weight = |byte: &u8| match byte {
        b'\n' | b',' => VALUE,
        b'{' => OBJECT,
        b'[' => ARRAY,
        _ => 0,
    };
    text.iter().map(weight).sum()
}

/// Calls `each` for every comma, colon, brace and bracket outside strings.
fn each_structural(text: &[u8], mut each: impl FnMut(u8)) {
    let (mut in_string, mut is_escaped) = (false, false);
    for &byte in text {
        if in_string {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            in_string = !ends;
        } else if byte == b'"' {
            in_string = true;
        } else if matches!(byte, b',' | b':' | b'{' | b'}' | b'[' | b']') {
            each(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Counts the values and objects of a document by parsing it.
    fn counted(value: &Value) -> u64 {
        match value {
            Value::Array(items) => {
                let gaps = (items.len() as u64).saturating_sub(1) * VALUE;
                ARRAY + gaps + items.iter().map(counted).sum::<u64>()
            }
            Value::Object(members) => {
                let gaps = (members.len() as u64).saturating_sub(1) * VALUE;
                let keys = members.len() as u64 * KEY;
                OBJECT + keys + gaps + members.values().map(counted).sum::<u64>()
            }
            _ => 0,
        }
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::from),
            r#"[,:{}\[\]"\\ a]{0,9}"#.prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(r#"[,:{}"\\a]{0,5}"#, inner, 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn estimates_count_what_a_parser_finds(value in document()) {
            prop_assert_eq!(of_json(value.to_string().as_bytes()).whole, counted(&value));
        }

        #[test]
        fn any_bytes_have_an_estimate(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let estimate = of_json(&bytes);
            prop_assert!(estimate.largest_member <= estimate.whole);
        }
    }

    #[test]
    fn the_largest_member_is_found_anywhere() {
        let large = json!({"x": [1, 2, 3, 4]});
        for text in [
            json!({"a": 1, "b": large, "c": 2}).to_string(),
            json!({"a": large, "b": 1}).to_string(),
            json!({"a": 1, "b": large}).to_string(),
        ] {
            let estimate = of_json(text.as_bytes());
            let least = OBJECT + KEY + ARRAY + 3 * VALUE;
            assert!(estimate.largest_member >= least, "{text}: {estimate:?}");
            assert!(
                estimate.largest_member <= least + OBJECT + VALUE + KEY,
                "{text}: {estimate:?}"
            );
        }
    }

    #[test]
    fn each_member_of_a_section_of_artifacts_counts_as_one() {
        let graph = json!({"a": ["b", "c"], "b": [], "c": []}).to_string();
        let estimate = of_json(graph.as_bytes());
        assert_eq!(estimate.of_artifacts(), estimate.whole + 3 * ARTIFACT);
    }

    #[test]
    fn claims_add_up() {
        let claims = Claims::new(10);
        assert!(claims.claim(4) && claims.claim(6));
        assert_eq!((claims.left(), claims.excess()), (0, None));
        assert!(!claims.claim(1));
        assert_eq!((claims.left(), claims.excess()), (0, Some(11)));
    }
}
