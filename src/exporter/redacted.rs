//! Addresses as they are shown.

/// An address without what may be secret in it: user info and query. All before the last `@` counts as user
/// info, since a password that is not percent-encoded may have any character.
pub fn redacted(url: &str) -> String {
    let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        _ => (String::new(), url),
    };
    let host = rest.rsplit('@').next().unwrap_or_default();
    let without_query = host.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}{}", without_query.trim_end_matches('/'))
}
