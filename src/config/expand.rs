//! Expands `${env:NAME}` in values.
//!
//! ```text
//! scalar text ──▶ literal │ ${env:NAME} │ ${env:NAME:-default} │ ${NAME} │ $$ ──▶ text
//! ```
//!
//! Expansion works on the parsed tree, so a variable can neither add keys nor break the syntax. The
//! value of a variable is not expanded again. An empty variable counts as unset, as it does in the
//! OTEL_* environment.

use super::fault::Report;
use super::node::{Mark, Node, Style, Value};

/// The environment. Tests pass their own.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands every value below `node`. Keys are not expanded.
pub(crate) fn expand(node: &mut Node, env: Env, report: &mut Report) {
    match &mut node.value {
        Value::Null => {}
        Value::Seq(items) => items.iter_mut().for_each(|item| expand(item, env, report)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| expand(node, env, report)),
        Value::Scalar { text, style } => {
            if !text.contains('$') {
                return;
            }
            let expanded = Expander { env, mark: &node.mark, report }.text(text);
            // Text around an expansion makes the value text. Without it, the value may be a number
            // or null.
            let style = match style {
                Style::Plain if expanded.is_empty() || is_one_expansion(text) => Style::Plain,
                _ => Style::Quoted,
            };
            node.value = Value::scalar(expanded, style);
        }
    }
}

fn is_one_expansion(text: &str) -> bool {
    text.starts_with("${") && text.find('}') == Some(text.len() - 1)
}

struct Expander<'a> {
    env: Env<'a>,
    mark: &'a Mark,
    report: &'a mut Report,
}

impl Expander<'_> {
    fn text(mut self, mut rest: &str) -> String {
        let mut out = String::with_capacity(rest.len());
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            rest = if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                after
            } else if let Some(body) = after.strip_prefix('{') {
                let Some((body, after)) = body.split_once('}') else {
                    self.report.fault(self.mark, "`${` without its `}` (a plain `$` is `$$`)");
                    return out;
                };
                out.push_str(&self.reference(body));
                after
            } else {
                out.push('$');
                after
            };
        }
        out.push_str(rest);
        out
    }

    /// Returns the value for the text between the braces.
    fn reference(&mut self, body: &str) -> String {
        let (head, default) = match body.split_once(":-") {
            Some((head, default)) => (head, Some(default)),
            None => (body, None),
        };
        let name = head.strip_prefix("env:").unwrap_or(head);
        if let Some(message) = complaint(body, name) {
            self.report.fault(self.mark, message);
            return String::new();
        }
        let value = (self.env)(name);
        if value.is_none() && default.is_none() {
            let message = format!("the environment has no {name}; it is taken as empty");
            self.report.warn(self.mark, message);
        }
        value
            .filter(|value| !value.is_empty())
            .or_else(|| default.map(str::to_owned))
            .unwrap_or_default()
    }
}

fn complaint(body: &str, name: &str) -> Option<String> {
    if body.contains("${") {
        return Some("an expansion inside an expansion".to_owned());
    }
    if let Some((scheme, _)) = name.split_once(':') {
        return Some(format!("`${{{scheme}:…}}` is not known; only `${{env:NAME}}` is"));
    }
    let mut chars = name.chars();
    let starts_well = chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic());
    if starts_well && chars.all(|c| c == '_' || c.is_ascii_alphanumeric()) {
        return None;
    }
    Some(format!("`{name}` cannot be the name of a variable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("tempo".to_owned()),
            "N" => Some("4".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("${N} $$".to_owned()),
            _ => None,
        }
    }

    /// Returns the expanded value of `a`, the errors and the warnings.
    fn run(yaml: &str) -> (Value, String, Vec<String>) {
        let mut report = Report::default();
        let mut node = Node::parse(&"p".into(), yaml, &mut report).unwrap();
        expand(&mut node, &env, &mut report);
        let value = node.entries()[0].1.value.clone();
        let warnings = report.warnings.iter().map(ToString::to_string).collect();
        (value, report.faults.to_string(), warnings)
    }

    #[test]
    fn expansion_table() {
        use Style::{Plain, Quoted};
        for (yaml, text, style) in [
            ("a: ${env:HOST}", "tempo", Plain),
            ("a: ${HOST}", "tempo", Plain),
            ("a: ${N}", "4", Plain),
            ("a: '${N}'", "4", Quoted),
            ("a: http://${HOST}:431${N}/", "http://tempo:4314/", Quoted),
            ("a: ${env:NONE:-http://x:4317}", "http://x:4317", Plain),
            ("a: ${EMPTY:-d}", "d", Plain),
            ("a: ${N:-5}", "4", Plain),
            ("a: $$${N}$${N}", "$4${N}", Quoted),
            ("a: cost$ $x", "cost$ $x", Quoted),
            ("a: ${DOLLAR}", "${N} $$", Plain),
            ("a: \"x${EMPTY}\"", "x", Quoted),
        ] {
            let (value, faults, warnings) = run(yaml);
            assert_eq!(value, Value::Scalar { text: text.into(), style }, "{yaml}");
            assert_eq!((faults.as_str(), warnings.len()), ("", 0), "{yaml}");
        }
    }

    #[test]
    fn unset_is_a_warning_and_empty() {
        let warning = "p:1:4: the environment has no NONE; it is taken as empty";
        let quoted = Value::Scalar { text: String::new(), style: Style::Quoted };
        assert_eq!(run("a: ${NONE}"), (Value::Null, String::new(), vec![warning.into()]));
        assert_eq!(run("a: '${NONE}'"), (quoted, String::new(), vec![warning.into()]));
        assert_eq!(run("a: ${EMPTY}"), (Value::Null, String::new(), vec![]));
        assert_eq!(run("a: ${EMPTY}${EMPTY}"), (Value::Null, String::new(), vec![]));
    }

    #[test]
    fn faults_are_located_and_keys_are_left_alone() {
        for (yaml, expected) in [
            ("a: ${foo:bar}", "p:1:4: `${foo:…}` is not known; only `${env:NAME}` is"),
            ("a: 'x ${env:HOST'", "p:1:4: `${` without its `}` (a plain `$` is `$$`)"),
            ("a: ${}", "p:1:4: `` cannot be the name of a variable"),
            ("a: ${env:A-B}", "p:1:4: `A-B` cannot be the name of a variable"),
            ("a: ${N:-${N}}", "p:1:4: an expansion inside an expansion"),
            ("${foo:bar}: 1", ""),
        ] {
            assert_eq!(run(yaml).1, expected, "{yaml}");
        }
    }
}
