//! Checks that every component in use is defined, and that every defined component is used.
//!
//! ```text
//! receivers: processors: exporters: extensions:  ──defined──┐
//! service.extensions, service.pipelines.*.*      ──used─────┴─▶ undefined, unused, misplaced
//! ```
//!
//! The check uses the tree, not the decoded configuration, because the tree keeps invalid components
//! and the position of every reference.

use std::collections::HashSet;

use super::fault::Report;
use super::node::{Key, Mark, Node};
use crate::base::diagnostics::{hint, unknown};
use crate::base::units::ComponentId;

const SECTIONS: [&str; 4] = ["receivers", "processors", "exporters", "extensions"];

/// Adds the errors and warnings to the report.
pub(crate) fn check(root: &Node, report: &mut Report) {
    let mut wiring = Wiring { root, report, used: HashSet::new() };
    wiring.pipelines();
    wiring.extensions();
    wiring.unused();
}

struct Wiring<'a> {
    root: &'a Node,
    report: &'a mut Report,
    /// Section and component id.
    used: HashSet<(&'static str, &'a str)>,
}

impl<'a> Wiring<'a> {
    fn pipelines(&mut self) {
        let pipelines = entries(self.root, "service.pipelines");
        if pipelines.is_empty() {
            let mark = ["service.pipelines", "service"]
                .iter()
                .find_map(|path| self.root.find(path))
                .map_or(&self.root.mark, |(mark, _)| mark);
            self.report.fault(mark, "no pipeline: service.pipelines needs a `traces` at least");
        }
        for (key, pipeline) in pipelines {
            match key.text.split('/').next().unwrap_or_default() {
                "traces" | "logs" => {}
                kind => {
                    let known = ["traces", "logs"];
                    self.report.fault(&key.mark, unknown("pipeline kind", kind, &known));
                }
            }
            self.roles(key, pipeline);
        }
    }

    fn roles(&mut self, key: &Key, pipeline: &'a Node) {
        for (section, required) in [("receivers", true), ("processors", false), ("exporters", true)]
        {
            let ids = items(pipeline, section);
            self.references(section, ids);
            if required && ids.is_empty() {
                let message = format!("pipeline `{}` has no {section}", key.text);
                self.report.fault(&key.mark, message);
            }
        }
    }

    fn extensions(&mut self) {
        let used = items(self.root, "service.extensions");
        self.references("extensions", used);
        let is_health = |node: &&Node| node.text().is_some_and(|id| is_kind(id, "health_check"));
        if let Some(second) = used.iter().filter(is_health).nth(1) {
            let message = "a second health_check: one is all that runs".to_owned();
            self.report.fault(&second.mark, message);
        }
        for (_, exporter) in entries(self.root, "exporters") {
            if let Some((mark, storage)) = exporter.find("sending_queue.storage") {
                let Some(id) = storage.text() else { continue };
                if self.reference("extensions", id, mark) && !is_kind(id, "file_storage") {
                    self.report.fault(mark, format!("`{id}` is not a file_storage extension"));
                }
            }
        }
    }

    fn references(&mut self, section: &'static str, ids: &'a [Node]) {
        let mut seen = HashSet::new();
        for node in ids {
            // Decoding has reported text that is not an id.
            let is_id = |text: &&str| text.parse::<ComponentId>().is_ok();
            let Some(id) = node.text().filter(is_id) else {
                continue;
            };
            if !seen.insert(id) {
                self.report.fault(&node.mark, format!("`{id}` is listed twice"));
            }
            self.reference(section, id, &node.mark);
        }
    }

    /// Whether `id` is defined in `section`. Reports an error if it is not.
    fn reference(&mut self, section: &'static str, id: &'a str, mark: &Mark) -> bool {
        let has = |section| entries(self.root, section).iter().any(|(key, _)| key.text == id);
        if has(section) {
            self.used.insert((section, id));
            return true;
        }
        let message = match SECTIONS.into_iter().find(|section| has(section)) {
            Some(other) => format!("`{id}` is defined under {other}, and used here as {section}"),
            None => {
                let defined = entries(self.root, section).iter();
                let known: Vec<_> = defined.map(|(key, _)| key.text.as_str()).collect();
                format!("`{id}` is not defined under {section}{}", hint(id, &known))
            }
        };
        self.report.fault(mark, message);
        false
    }

    fn unused(&mut self) {
        for section in SECTIONS {
            for (key, _) in entries(self.root, section) {
                if !self.used.contains(&(section, key.text.as_str())) {
                    let message = format!("`{}` is defined and never used", key.text);
                    self.report.warn(&key.mark, message);
                }
            }
        }
    }
}

fn entries<'a>(node: &'a Node, path: &str) -> &'a [(Key, Node)] {
    node.find(path).map_or(&[], |(_, node)| node.entries())
}

fn items<'a>(node: &'a Node, path: &str) -> &'a [Node] {
    node.find(path).map_or(&[], |(_, node)| node.items())
}

fn is_kind(id: &str, kind: &str) -> bool {
    id.split('/').next() == Some(kind)
}
