//! Checks times and ranks: dependencies come first, and manifest order decides between the others.

use std::collections::HashMap;

use opentelemetry_proto::tonic::trace::v1::Span;

use super::export::{Export, Task};
use super::spans::{Expected, Kind};

const STEP: u64 = 1000;

/// Checks the times and ranks of all spans. `pairs` starts with the epic.
pub fn check(export: &Export, pairs: &[(&Expected<'_>, &Span)]) -> Vec<String> {
    let mut faults = Vec::new();
    let epic = pairs[0].1;
    let t0 = epic.start_time_unix_nano;
    let mut rank_of: HashMap<&str, u64> = HashMap::new();
    let mut last = t0;
    for (expected, span) in pairs {
        let Kind::Task(task) = &expected.kind else {
            continue;
        };
        let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
        if start <= t0 || !(start - t0).is_multiple_of(STEP) || end != start + STEP {
            faults.push(format!("{}: it runs from {start} to {end}", expected.place()));
        }
        rank_of.insert(&task.id, start.saturating_sub(t0) / STEP);
        last = last.max(end);
    }
    if epic.end_time_unix_nano != last {
        faults.push(format!("the epic ends at {}, expected {last}", epic.end_time_unix_nano));
    }
    faults.extend(check_stories(pairs));

    let ranks: Vec<u64> = export.tasks.iter().map(|task| rank_of[task.id.as_str()]).collect();
    let mut sorted = ranks.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(1..=ranks.len() as u64) {
        faults.push(format!("the ranks are {sorted:?}"));
    }
    faults.extend(Graph::new(&export.tasks).check(&ranks));
    faults
}

fn check_stories(pairs: &[(&Expected<'_>, &Span)]) -> Vec<String> {
    let mut faults = Vec::new();
    let epic = pairs[0].1;
    let covers = |outer: &Span, inner: &Span| {
        outer.start_time_unix_nano <= inner.start_time_unix_nano
            && inner.end_time_unix_nano <= outer.end_time_unix_nano
    };
    for (story, span) in pairs {
        let Kind::Story { kind, .. } = &story.kind else {
            continue;
        };
        if !covers(epic, span) {
            faults.push(format!("{}: not within the epic", story.place()));
        }
        for (task, inner) in pairs {
            if matches!(&task.kind, Kind::Task(task) if task.kind == *kind) && !covers(span, inner)
            {
                faults.push(format!("{}: does not cover {}", story.place(), task.place()));
            }
        }
    }
    faults
}

/// The dependencies, as positions in the manifest.
struct Graph<'a> {
    tasks: &'a [Task],
    depends_on: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn new(tasks: &'a [Task]) -> Self {
        let at: HashMap<&str, usize> =
            tasks.iter().enumerate().map(|(index, task)| (task.id.as_str(), index)).collect();
        let resolved = |(index, task): (usize, &Task)| {
            let ids = task.depends_on.iter().filter_map(|id| at.get(id.as_str()));
            let mut found: Vec<usize> = ids.copied().filter(|&other| other != index).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let depends_on = tasks.iter().enumerate().map(resolved).collect();
        Self { tasks, depends_on }
    }

    /// Returns, for each task, whether it is reachable from this one along at least one dependency.
    fn reach(&self, from: usize) -> Vec<bool> {
        let mut seen = vec![false; self.tasks.len()];
        let mut open = vec![from];
        while let Some(index) = open.pop() {
            for &next in &self.depends_on[index] {
                if !std::mem::replace(&mut seen[next], true) {
                    open.push(next);
                }
            }
        }
        seen
    }

    fn check(&self, ranks: &[u64]) -> Vec<String> {
        let mut faults = Vec::new();
        let id = |index: usize| &self.tasks[index].id;
        for (index, dependencies) in self.depends_on.iter().enumerate() {
            for &dependency in dependencies.iter().filter(|&&d| ranks[d] >= ranks[index]) {
                if !self.reach(dependency)[index] {
                    let (task, on) = (id(index), id(dependency));
                    faults.push(format!("{task:?} is ranked before its dependency {on:?}"));
                } else if let Some((first, other)) = self.broken_cycle(index, ranks) {
                    let (first, other) = (id(first), id(other));
                    faults.push(format!("{other:?} is ranked before {first:?} in their cycle"));
                }
            }
        }
        // Tasks with the same dependencies become ready at the same time, so manifest order
        // decides.
        let mut latest: HashMap<&[usize], usize> = HashMap::new();
        for (index, dependencies) in self.depends_on.iter().enumerate() {
            let before = latest.insert(dependencies, index);
            if let Some(before) = before.filter(|&before| ranks[before] > ranks[index])
                && !self.reach(before)[before]
                && !self.reach(index)[index]
            {
                let (before, task) = (id(before), id(index));
                faults.push(format!("{task:?} is ranked before {before:?}, against the manifest"));
            }
        }
        faults
    }

    /// Returns the first task of a cycle in manifest order, and a task that was ranked before it.
    /// `None` if the cycle is in order.
    fn broken_cycle(&self, member: usize, ranks: &[u64]) -> Option<(usize, usize)> {
        let forward = self.reach(member);
        let members: Vec<usize> =
            (0..ranks.len()).filter(|&other| forward[other] && self.reach(other)[member]).collect();
        let first = *members.first()?;
        let other = members.into_iter().find(|&other| ranks[other] < ranks[first])?;
        Some((first, other))
    }
}
