//! Draws the dependencies of a plan as SVG, with the first tasks on the left. Pure.
//!
//! ```text
//! depends_on ─▶ layers (longest way from the left) ─▶ boxes and lines ─▶ SVG
//! ```

use std::collections::HashMap;
use std::fmt::Write;

use super::html::escaped;
use crate::base::ids::TaskId;
use crate::plan::Plan;

/// Larger graphs are unreadable and are not drawn.
const MAX_DRAWN: usize = 150;

/// Sizes in pixels.
const WIDTH: usize = 220;
const HEIGHT: usize = 28;
const GAP_X: usize = 60;
const GAP_Y: usize = 12;
const MARGIN: usize = 10;

/// Maximum length of a label, in characters.
const MAX_LABEL: usize = 30;

/// Returns the drawing, or the reason why there is none.
pub(crate) fn svg(plan: &Plan) -> String {
    let count = plan.artifacts.len();
    if count == 0 {
        return "<p>Nothing to draw.</p>".to_owned();
    }
    if count > MAX_DRAWN {
        return format!("<p>{count} artifacts are too many to draw.</p>");
    }
    let index: HashMap<&TaskId, usize> =
        plan.artifacts.iter().enumerate().map(|(at, artifact)| (&artifact.id, at)).collect();
    let needs: Vec<Vec<usize>> = plan
        .artifacts
        .iter()
        .map(|artifact| {
            let mut known: Vec<usize> =
                artifact.depends_on.iter().filter_map(|id| index.get(id).copied()).collect();
            known.sort_unstable();
            known.dedup();
            known
        })
        .collect();
    let layers = layers(&needs);
    let mut filled: HashMap<usize, usize> = HashMap::new();
    let places: Vec<(usize, usize)> = layers
        .iter()
        .map(|layer| {
            let row = filled.entry(*layer).or_default();
            let place = (MARGIN + layer * (WIDTH + GAP_X), MARGIN + *row * (HEIGHT + GAP_Y));
            *row += 1;
            place
        })
        .collect();
    let columns = layers.iter().max().map_or(1, |last| last + 1);
    let rows = filled.values().max().copied().unwrap_or(1);
    let (width, height) = (
        2 * MARGIN + columns * (WIDTH + GAP_X) - GAP_X,
        2 * MARGIN + rows * (HEIGHT + GAP_Y) - GAP_Y,
    );
    let mut text = format!(
        "<svg role=\"img\" aria-label=\"dependencies\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">"
    );
    for (to, needed) in needs.iter().enumerate() {
        for from in needed {
            let _ =
                write!(text, "<path class=\"edge\" d=\"{}\"/>", line(places[*from], places[to]));
        }
    }
    for (artifact, (x, y)) in plan.artifacts.iter().zip(&places) {
        let id = artifact.id.as_str();
        let status = artifact.status.as_str();
        let (label_x, label_y) = (x + 10, y + HEIGHT / 2 + 5);
        let _ = write!(
            text,
            "<g class=\"box {status}\"><title>{}: {status}</title>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"5\"/>\
             <text x=\"{label_x}\" y=\"{label_y}\">{}</text></g>",
            escaped(id),
            escaped(&label(id)),
        );
    }
    text.push_str("</svg>");
    text
}

/// Draws a line from the right side of one box to the left side of another. Across several columns
/// it runs between two rows, so that it does not cross boxes.
fn line((x1, y1): (usize, usize), (x2, y2): (usize, usize)) -> String {
    let (x1, y1, middle) = (x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2);
    let bend = GAP_X / 2;
    let (right, left) = (x1 + bend, x2.saturating_sub(bend));
    if x2 <= x1 + GAP_X {
        return format!("M{x1} {y1} C{right} {y1} {left} {middle} {x2} {middle}");
    }
    let between = y2.saturating_sub(GAP_Y / 2);
    let (first, last) = (x1 + GAP_X, x2 - GAP_X);
    format!(
        "M{x1} {y1} C{right} {y1} {right} {between} {first} {between} H{last} \
         C{left} {between} {left} {middle} {x2} {middle}"
    )
}

fn label(id: &str) -> String {
    if id.chars().count() <= MAX_LABEL {
        return id.to_owned();
    }
    let start: String = id.chars().take(MAX_LABEL - 1).collect();
    format!("{start}…")
}

/// Returns the column of each box, to the right of all its dependencies. The members of a cycle
/// have no such column and keep that of the last round.
fn layers(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut layers = vec![0; needs.len()];
    // The longest path has at most this many steps.
    for _ in 0..needs.len() {
        let mut changed = false;
        for (at, needed) in needs.iter().enumerate() {
            let behind = needed.iter().filter(|it| **it != at).map(|it| layers[*it] + 1).max();
            let behind = behind.unwrap_or(0).min(needs.len() - 1);
            changed |= behind > layers[at];
            layers[at] = layers[at].max(behind);
        }
        if !changed {
            break;
        }
    }
    // A cycle moves its members further in each round, so remove empty columns.
    let mut used: Vec<usize> = layers.clone();
    used.sort_unstable();
    used.dedup();
    layers.iter().map(|layer| used.binary_search(layer).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dependencies_are_on_the_left() {
        assert_eq!(layers(&[vec![1], vec![2], vec![]]), [2, 1, 0]);
        assert_eq!(layers(&[vec![0], vec![]]), [0, 0], "a thing that needs itself");
        assert_eq!(layers(&[]), [0; 0]);
    }

    #[test]
    fn a_line_over_a_column_runs_between_the_rows() {
        let column = |at: usize| MARGIN + at * (WIDTH + GAP_X);
        assert!(!line((column(0), MARGIN), (column(1), MARGIN)).contains('H'));
        let long = line((column(0), MARGIN), (column(3), MARGIN));
        // Above the boxes of the first row, past the columns in between.
        assert!(long.contains(&format!("{} 4 H{} ", column(1), column(3) - GAP_X)), "{long}");
    }

    proptest! {
        #[test]
        fn every_graph_places_every_task(
            edges in prop::collection::vec((0_usize..20, 0_usize..20), 0..60),
        ) {
            let mut needs = vec![Vec::new(); 20];
            for (from, to) in edges {
                needs[from].push(to);
            }
            let layers = layers(&needs);
            prop_assert!(layers.iter().all(|layer| *layer < 20));
            let last = layers.iter().max().copied().unwrap_or_default();
            prop_assert!((0..=last).all(|column| layers.contains(&column)), "{layers:?}");
        }
    }
}
