//! Build order: every task comes after the tasks that it depends on.
//!
//! The tasks of a cycle have no such order, so they are ranked like one task. Within a cycle, and
//! among tasks that do not depend on each other, the manifest's order decides.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Ranks from 1, by task index. `dependencies[i]` are the indices that task `i` depends on.
pub(crate) fn ranks(dependencies: &[Vec<usize>]) -> Vec<u64> {
    let group_of = cycles(dependencies);
    let group_count = group_of.iter().max().map_or(0, |last| last + 1);
    let mut members = vec![Vec::new(); group_count];
    let mut waits_for = vec![0_usize; group_count];
    let mut dependents = vec![Vec::new(); group_count];
    for (task, needed) in dependencies.iter().enumerate() {
        members[group_of[task]].push(task);
        for &dependency in needed {
            if group_of[dependency] != group_of[task] {
                waits_for[group_of[task]] += 1;
                dependents[group_of[dependency]].push(group_of[task]);
            }
        }
    }

    let mut unranked: Vec<usize> = members.iter().map(Vec::len).collect();
    let ready = (0..group_count).filter(|&group| waits_for[group] == 0);
    let mut ready: BinaryHeap<_> =
        ready.flat_map(|group| members[group].iter().copied()).map(Reverse).collect();
    let mut ranks = vec![0; dependencies.len()];
    let mut rank = 0;
    while let Some(Reverse(task)) = ready.pop() {
        rank += 1;
        ranks[task] = rank;
        let group = group_of[task];
        unranked[group] -= 1;
        if unranked[group] > 0 {
            continue;
        }
        for &dependent in &dependents[group] {
            waits_for[dependent] -= 1;
            if waits_for[dependent] == 0 {
                ready.extend(members[dependent].iter().copied().map(Reverse));
            }
        }
    }
    ranks
}

/// Returns the strongly connected component of each task. This is Tarjan's algorithm with an
/// explicit stack: with recursion, a chain of 100,000 tasks would overflow the thread's stack.
fn cycles(dependencies: &[Vec<usize>]) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let count = dependencies.len();
    let (mut index, mut low) = (vec![UNSEEN; count], vec![0; count]);
    let mut group_of = vec![UNSEEN; count];
    let (mut open, mut visits) = (Vec::new(), Vec::new());
    let (mut next_index, mut next_group) = (0, 0);
    for root in 0..count {
        if index[root] != UNSEEN {
            continue;
        }
        visits.push((root, 0));
        while let Some((task, edge)) = visits.pop() {
            if edge == 0 {
                (index[task], low[task]) = (next_index, next_index);
                next_index += 1;
                open.push(task);
            }
            if let Some(&dependency) = dependencies[task].get(edge) {
                visits.push((task, edge + 1));
                if index[dependency] == UNSEEN {
                    visits.push((dependency, 0));
                } else if group_of[dependency] == UNSEEN {
                    low[task] = low[task].min(index[dependency]);
                }
                continue;
            }
            if low[task] == index[task] {
                while let Some(member) = open.pop() {
                    group_of[member] = next_group;
                    if member == task {
                        break;
                    }
                }
                next_group += 1;
            }
            if let Some(&(parent, _)) = visits.last() {
                low[parent] = low[parent].min(low[task]);
            }
        }
    }
    group_of
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn table() {
        type Edges<'a> = &'a [&'a [usize]];
        let cases: &[(&str, Edges<'_>, &[u64])] = &[
            ("nothing", &[], &[]),
            ("manifest order", &[&[], &[], &[]], &[1, 2, 3]),
            ("forward reference", &[&[2], &[], &[]], &[3, 1, 2]),
            ("chain backwards", &[&[1], &[2], &[]], &[3, 2, 1]),
            ("self edge", &[&[0], &[]], &[1, 2]),
            ("cycle keeps manifest order", &[&[1], &[0], &[]], &[1, 2, 3]),
            ("what waits for a cycle comes after it", &[&[1], &[2], &[1]], &[3, 1, 2]),
            ("a cycle waits as one", &[&[1], &[0, 2], &[]], &[2, 3, 1]),
            ("repeated edge", &[&[1, 1], &[]], &[2, 1]),
        ];
        for (name, edges, expected) in cases {
            let edges: Vec<Vec<usize>> = edges.iter().map(|list| list.to_vec()).collect();
            assert_eq!(ranks(&edges), *expected, "{name}");
        }
    }

    #[test]
    fn a_long_chain_does_not_overflow_the_stack() {
        let edges: Vec<Vec<usize>> = (0..200_000)
            .map(|task| (task + 1 < 200_000).then_some(task + 1).into_iter().collect())
            .collect();
        assert_eq!(ranks(&edges)[0], 200_000);
    }

    proptest! {
        #[test]
        fn every_task_has_one_rank_and_follows_what_it_depends_on(
            edges in (1_usize..20).prop_flat_map(|n| {
                prop::collection::vec(prop::collection::vec(0..n, 0..4), n)
            })
        ) {
            let ranks = ranks(&edges);
            let mut sorted = ranks.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (1..=edges.len() as u64).collect::<Vec<_>>());
            let groups = cycles(&edges);
            for (task, needed) in edges.iter().enumerate() {
                for &dependency in needed {
                    prop_assert!(
                        groups[task] == groups[dependency] || ranks[dependency] < ranks[task]
                    );
                }
            }
        }
    }
}
