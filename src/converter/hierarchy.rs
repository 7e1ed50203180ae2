//! Stories: the levels between the epic and its tasks (Q1).
//!
//! ```text
//! type         epic ─▶ type ─▶ task          target        epic ─▶ target ─▶ task
//! target_type  epic ─▶ target ─▶ type ─▶ task
//! ```

use std::collections::{HashMap, HashSet};

use super::options::GroupBy;
use crate::base::ids::TaskId;
use crate::plan::Artifact;

/// A level of the hierarchy that becomes a story span.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Story<'a> {
    pub(crate) id: TaskId,
    pub(crate) title: String,
    /// Index of the parent story. `None` if the parent is the epic.
    pub(crate) parent: Option<usize>,
    pub(crate) kind: Option<&'a str>,
    pub(crate) target: Option<&'a str>,
    /// Indices of all tasks below this story, at any depth.
    pub(crate) tasks: Vec<usize>,
    /// Whether tasks are its direct children.
    pub(crate) is_leaf: bool,
}

/// Stories in order of first appearance. A story comes after its parent.
#[derive(Debug)]
pub(crate) struct Hierarchy<'a> {
    pub(crate) stories: Vec<Story<'a>>,
    /// Index of the parent story, by task.
    pub(crate) story_of: Vec<usize>,
}

pub(crate) fn hierarchy<'a>(
    project_id: &str,
    artifacts: &[&'a Artifact],
    group_by: GroupBy,
) -> Hierarchy<'a> {
    let mut grouping =
        Grouping { project_id, stories: Vec::new(), by_key: HashMap::new(), ids: HashSet::new() };
    let story_of = artifacts
        .iter()
        .enumerate()
        .map(|(task, artifact)| {
            let (kind, target) = (artifact.kind.as_str(), artifact.target.as_str());
            match group_by {
                GroupBy::Type => grouping.add(task, None, (None, Some(kind)), true),
                GroupBy::Target => grouping.add(task, None, (Some(target), None), true),
                GroupBy::TargetType => {
                    let parent = grouping.add(task, None, (Some(target), None), false);
                    grouping.add(task, Some(parent), (Some(target), Some(kind)), true)
                }
            }
        })
        .collect();
    Hierarchy { stories: grouping.stories, story_of }
}

type Key<'a> = (Option<&'a str>, Option<&'a str>);

struct Grouping<'p, 'a> {
    project_id: &'p str,
    stories: Vec<Story<'a>>,
    by_key: HashMap<Key<'a>, usize>,
    ids: HashSet<String>,
}

impl<'a> Grouping<'_, 'a> {
    fn add(&mut self, task: usize, parent: Option<usize>, key: Key<'a>, is_leaf: bool) -> usize {
        let index = match self.by_key.get(&key) {
            Some(&index) => index,
            None => {
                let story = self.story(parent, key, is_leaf);
                self.stories.push(story);
                self.by_key.insert(key, self.stories.len() - 1);
                self.stories.len() - 1
            }
        };
        self.stories[index].tasks.push(task);
        index
    }

    fn story(
        &mut self,
        parent: Option<usize>,
        (target, kind): Key<'a>,
        is_leaf: bool,
    ) -> Story<'a> {
        let words: Vec<&str> = [target, kind].into_iter().flatten().collect();
        let subject = kind.map_or_else(|| target.unwrap_or_default().to_owned(), pascal_case);
        Story {
            id: self.unused(format!("{}-{}-artifacts", self.project_id, words.join("-"))),
            title: format!("{subject} Artifacts"),
            parent,
            kind,
            target,
            tasks: Vec::new(),
            is_leaf,
        }
    }

    /// Returns an id that no other story has. Target `a-b` and type `b` of target `a` would
    /// otherwise get the same id, and so the same span id.
    fn unused(&mut self, id: String) -> TaskId {
        let mut candidate = id.clone();
        let mut number = 1;
        while !self.ids.insert(candidate.clone()) {
            number += 1;
            candidate = format!("{id}~{number}");
        }
        TaskId::new(candidate)
    }
}

/// `prometheus_rule` → `PrometheusRule`.
fn pascal_case(kind: &str) -> String {
    let words = kind.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let mut rest = word.chars();
            let first = rest.next().into_iter().flat_map(char::to_uppercase);
            first.chain(rest).collect::<String>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converter::tests::artifact;

    #[test]
    fn pascal() {
        for (kind, expected) in [
            ("prometheus_rule", "PrometheusRule"),
            ("dashboard", "Dashboard"),
            ("ingestion-traceability", "IngestionTraceability"),
            ("ci_workflow", "CiWorkflow"),
            ("été_chaud", "ÉtéChaud"),
        ] {
            assert_eq!(pascal_case(kind), expected);
        }
    }

    #[test]
    fn stories_with_equal_ids_are_told_apart() {
        let artifacts = [artifact("1", "b", "a"), artifact("2", "c", "a-b")];
        let artifacts: Vec<&Artifact> = artifacts.iter().collect();
        let stories = hierarchy("p", &artifacts, GroupBy::TargetType).stories;
        let ids: Vec<&str> = stories.iter().map(|story| story.id.as_str()).collect();
        assert_eq!(
            ids,
            ["p-a-artifacts", "p-a-b-artifacts", "p-a-b-artifacts~2", "p-a-b-c-artifacts"]
        );
    }
}
