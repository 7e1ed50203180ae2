//! Value types of the configuration. Each is parsed from text and printed as text.
//!
//! ```text
//! "1m30s" ─▶ HumanDuration              "64MiB" ─▶ ByteSize
//! "otlp_grpc/backup" ─▶ ComponentId     anything ─▶ Secret, printed as [redacted]
//! ```
//!
//! All arithmetic is exact: a printed value parses as the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A `Duration` in Go's notation: `100ms`, `1.5s`, `1m30s`, `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HumanDuration(pub Duration);

impl HumanDuration {
    /// In nanoseconds.
    const UNITS: [(&str, u64); 8] = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ns", 1),
    ];

    pub(crate) const ZERO: Self = Self(Duration::ZERO);

    pub(crate) const fn from_secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    pub(crate) const fn from_millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    pub(crate) const fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let wrong = || format!("`{text}` is not a duration such as 100ms, 1.5s or 1m30s");
        let mut nanos = 0_u64;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = split_number(rest);
            let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            if unit.is_empty() && !number.is_empty() {
                return Err(format!("`{text}` needs a unit, as in {text}s or {text}ms"));
            }
            let (_, size) = Self::UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            let part = scale(number, *size).ok_or_else(wrong)?;
            nanos = nanos.checked_add(part).ok_or_else(|| format!("`{text}` is too long"))?;
            rest = after;
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Self(Duration::from_nanos(nanos))) }
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        match (seconds, nanos) {
            (0, 0) => return f.write_str("0s"),
            (0, 1..1_000) => return write!(f, "{nanos}ns"),
            (0, 1_000..1_000_000) => {
                return write!(f, "{}us", decimal(nanos / 1_000, nanos % 1_000, 3));
            }
            (0, _) => {
                return write!(f, "{}ms", decimal(nanos / 1_000_000, nanos % 1_000_000, 6));
            }
            _ => {}
        }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds % 60 > 0 || nanos > 0 {
            write!(f, "{}s", decimal(seconds % 60, nanos, 9))?;
        }
        Ok(())
    }
}

/// Formats `whole.fraction` with as many digits as needed. `fraction` is in units of 10^-digits.
fn decimal(whole: impl fmt::Display, fraction: u32, digits: usize) -> String {
    let text = format!("{whole}.{fraction:0digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Splits `text` after its leading digits and dots.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// Multiplies the decimal `number` by `unit`, rounded down. `None` if it is not a decimal or too
/// large.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = [whole, fraction].concat();
    // More digits would overflow the arithmetic below.
    if digits.is_empty() || digits.len() > 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let denominator = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value = digits.parse::<u128>().ok()?.checked_mul(u128::from(unit))? / denominator;
    value.try_into().ok()
}

/// A number of bytes: `64MiB`, `3.5MiB`, `1GB`, or a bare number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
    ];

    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text.trim());
        let unit = unit.trim_start();
        let size = match unit {
            "" | "B" => Some(1),
            _ => Self::UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, size)| *size),
        };
        size.and_then(|size| scale(number, size))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size such as 64MiB, 3.5MiB, 1GB or 4096"))
    }
}

impl fmt::Display for ByteSize {
    /// Uses the unit that gives the shortest text, with at most one decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = u128::from(self.0) * 10;
        let in_unit = |(name, size): (&str, u64)| {
            let size = u128::from(size);
            let exact = tenths >= size * 10 && tenths.is_multiple_of(size);
            exact.then(|| match (tenths / size / 10, tenths / size % 10) {
                (whole, 0) => format!("{whole}{name}"),
                (whole, tenth) => format!("{whole}.{tenth}{name}"),
            })
        };
        let candidates = Self::UNITS.into_iter().filter_map(in_unit).chain([self.0.to_string()]);
        f.write_str(&candidates.min_by_key(String::len).unwrap_or_default())
    }
}

/// Text that must not be shown: the value of a header, or a token.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value. Only the code that sends it may call this.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of a component: `type`, or `type/name` if there are several of that type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ComponentId {
    pub kind: String,
    pub name: Option<String>,
}

impl FromStr for ComponentId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        let kind_is_good = kind.starts_with(|c: char| c.is_ascii_alphabetic())
            && kind.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
        let name_is_good = name.is_none_or(|name| {
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control())
        });
        if kind_is_good && name_is_good {
            return Ok(Self { kind: kind.to_owned(), name: name.map(str::to_owned) });
        }
        Err(format!("`{text}` is not a component id: write `type` or `type/name`"))
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.kind),
            None => f.write_str(&self.kind),
        }
    }
}

/// Implements serde with `Display` and `FromStr`.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(ByteSize, ComponentId, HumanDuration);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
