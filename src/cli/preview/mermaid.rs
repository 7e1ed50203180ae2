//! The dependency graph in Mermaid's format. Arrows point from a dependency to the task that needs
//! it.

use std::collections::HashMap;
use std::fmt::Write;

use crate::base::ids::TaskId;
use crate::plan::{Plan, Status};

pub(crate) fn graph(plan: &Plan) -> String {
    let mut text = String::from("flowchart LR\n");
    let mut nodes: HashMap<&TaskId, usize> = HashMap::new();
    // Ids may contain any character, so nodes are numbered and the ids are their labels.
    for (number, artifact) in plan.artifacts.iter().enumerate() {
        nodes.insert(&artifact.id, number);
        let class = artifact.status.as_str();
        let _ = writeln!(text, "    n{number}[\"{}\"]:::{class}", label(artifact.id.as_str()));
    }
    let mut missing: HashMap<&TaskId, usize> = HashMap::new();
    for artifact in &plan.artifacts {
        let node = nodes[&artifact.id];
        let mut drawn: Vec<&TaskId> = Vec::new();
        for needed in artifact.depends_on.iter() {
            if drawn.contains(&needed) {
                continue;
            }
            drawn.push(needed);
            if let Some(from) = nodes.get(needed) {
                let _ = writeln!(text, "    n{from} --> n{node}");
                continue;
            }
            let number = missing.len();
            let from = *missing.entry(needed).or_insert_with(|| {
                let _ = writeln!(text, "    u{number}[\"{}\"]:::unknown", label(needed.as_str()));
                number
            });
            let _ = writeln!(text, "    u{from} -.-> n{node}");
        }
    }
    for (status, style) in [
        (Status::Needed.as_str(), "fill:#fff3cd,stroke:#b8860b,color:#000"),
        (Status::Exists.as_str(), "fill:#d4edda,stroke:#2e7d32,color:#000"),
        (Status::Outdated.as_str(), "fill:#d1ecf1,stroke:#0c5460,color:#000"),
        (Status::Skipped.as_str(), "fill:#eee,stroke:#999,color:#555"),
        ("unknown", "fill:#fff,stroke:#999,stroke-dasharray:4,color:#555"),
    ] {
        let _ = writeln!(text, "    classDef {status} {style}");
    }
    text
}

/// Escapes a label: Mermaid interprets quotes, brackets and markup. Its escapes have the form
/// `#code;`.
fn label(text: &str) -> String {
    let escape = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' | '/' | ' ' => c.to_string(),
        c if c.is_alphanumeric() => c.to_string(),
        c => format!("#{};", u32::from(c)),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(label("a_b-c.json"), "a_b-c.json");
        assert_eq!(label("x\"] --> y"), "x#34;#93; --#62; y");
    }
}
