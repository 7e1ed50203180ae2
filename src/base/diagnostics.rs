//! Suggestions for unknown words: "did you mean …?".

/// Formats an error such as "unknown key `endpiont`; did you mean `endpoint`? Known: …".
pub(crate) fn unknown(what: &str, given: &str, known: &[&str]) -> String {
    format!("unknown {what} `{given}`{}", hint(given, known))
}

/// Formats the suggestion at the end of a message about `given`, which is not one of `known`.
pub(crate) fn hint(given: &str, known: &[&str]) -> String {
    let near = match nearest(given, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => ".".to_owned(),
    };
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("{near} Known: {known}")
}

/// Returns the known word that differs from `given` by one or two typing errors, if any.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = 1 + given.chars().count() / 4;
    let (distance, near) = known
        .iter()
        .map(|word| (strsim::levenshtein(given, word), *word))
        .min_by_key(|(steps, _)| *steps)?;
    (distance <= allowed).then_some(near)
}

/// Returns the few known words that are most similar to `given`.
pub(crate) fn near<'a>(given: &str, known: &[&'a str]) -> Vec<&'a str> {
    let mut by_distance: Vec<(usize, &str)> =
        known.iter().map(|word| (strsim::levenshtein(given, word), *word)).collect();
    by_distance.sort_by_key(|(steps, _)| *steps);
    by_distance.into_iter().take(3).map(|(_, word)| word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_recognised_and_an_unrelated_word_is_not() {
        let known = ["endpoint", "timeout", "tls"];
        assert_eq!(nearest("endpiont", &known), Some("endpoint"));
        assert_eq!(nearest("tmieout", &known), Some("timeout"));
        assert_eq!(nearest("ca", &known), None);
        assert_eq!(nearest("tl", &known), Some("tls"));
        assert_eq!(nearest("compression", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
