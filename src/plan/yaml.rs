//! YAML for documents of any allowed size: the reader's own budget would refuse a manifest of some
//! thousand artifacts, so it follows the size of the text, which is bounded before it is read.
//! Aliases keep a budget of their own: a short text must not expand into a long one.

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, budget, options};

/// Levels of nesting; the stack of the parser is bounded by it.
const MAX_DEPTH: usize = 128;

pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    // Every node and event stands for at least one byte of text; the slack covers tiny documents.
    let nodes = text.len().saturating_add(1_024);
    let options = options! {
        budget: budget! {
            max_depth: MAX_DEPTH,
            max_nodes: nodes,
            max_events: nodes.saturating_mul(2),
            max_total_scalar_bytes: nodes,
            max_documents: 1,
        },
    };
    serde_saphyr::from_str_with_options(text, options)
}

/// The reader's message on one line: its default form draws the source over several.
pub fn brief(error: &Error) -> String {
    let text = error.without_snippet().to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_budget_follows_the_size_of_the_text() {
        let item = "- {id: a, type: b, parameters: {x: [1, 2, 3], y: {z: 1.5}}, dependsOn: [c]}\n";
        let value: Value = parse(&item.repeat(30_000)).expect("a large document");
        assert_eq!(value.as_array().map(Vec::len), Some(30_000));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(parse::<Value>(&text).is_err());
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(parse::<Value>(&text).is_err());
    }
}
