//! The JSON of contracts, and of the parts that many contracts share.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// Room for the JSON of a usual contract, in bytes.
const USUAL_CONTRACT: usize = 900;

/// Acceptance criteria as JSON. The schemas require every criterion to have text, and the list not to be empty.
pub fn criteria(criteria: &[&str]) -> Option<Box<RawValue>> {
    let filled: Vec<&&str> = criteria.iter().filter(|text| !text.is_empty()).collect();
    if filled.is_empty() { None } else { raw(&filled) }
}

/// JSON that many contracts share. `None` for a value that JSON cannot express, which no contract is.
pub fn raw(value: &impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

/// The JSON of one contract. Empty for a value that JSON cannot express, which no contract is.
pub fn text(contract: &impl Serialize) -> String {
    // Growing as it goes, it would be copied three times.
    let mut json = Vec::with_capacity(USUAL_CONTRACT);
    match serde_json::to_writer(&mut json, contract) {
        Ok(()) => String::from_utf8(json).unwrap_or_default(),
        Err(_) => String::new(),
    }
}
