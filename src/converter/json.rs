//! JSON of contracts, and of the parts that many contracts share.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// Typical size of a contract's JSON, in bytes.
const USUAL_CONTRACT: usize = 900;

/// Returns acceptance criteria as JSON. `None` if no criterion has text: the schemas require a list
/// that is not empty.
pub(crate) fn criteria(criteria: &[&str]) -> Option<Box<RawValue>> {
    let filled: Vec<&&str> = criteria.iter().filter(|text| !text.is_empty()).collect();
    if filled.is_empty() { None } else { raw(&filled) }
}

/// Returns the JSON of a part that many contracts share. `None` if the value has no JSON form,
/// which does not happen for contracts.
pub(crate) fn raw(value: &impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

/// Returns the JSON of one contract. Empty if it has no JSON form, which does not happen for
/// contracts.
pub(crate) fn text(contract: &impl Serialize) -> String {
    // Without this capacity, the buffer would grow, and be copied, three times.
    let mut json = Vec::with_capacity(USUAL_CONTRACT);
    match serde_json::to_writer(&mut json, contract) {
        Ok(()) => String::from_utf8(json).unwrap_or_default(),
        Err(_) => String::new(),
    }
}
