//! Points in time, in the formats of OTLP and of the written-back file.
//!
//! Only the edges of the program read the clock; pure code receives a [`UnixNanos`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970-01-01T00:00:00Z (OTLP, `fixed64 *_time_unix_nano`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// Returns the present time of the system's clock.
    pub fn now() -> UnixNanos {
        UnixNanos::from(SystemTime::now())
    }

    /// Converts a file's modification time in nanoseconds since 1970. A time that OTLP cannot
    /// express is clamped.
    pub fn of_mtime(nanos: i128) -> UnixNanos {
        UnixNanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }

    /// Formats as RFC 3339 in UTC with milliseconds: `2026-11-23T06:15:00.123Z`.
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_millis(self.system_time()).to_string()
    }

    /// Formats as ISO 8601 with microseconds and an offset: `2026-11-23T06:15:00.123456+00:00`.
    pub fn iso(self) -> String {
        humantime::format_rfc3339_micros(self.system_time()).to_string().replace('Z', "+00:00")
    }

    /// Formats the time for use in ids: `20261123T061500Z`.
    pub fn compact(self) -> String {
        let text = humantime::format_rfc3339_seconds(self.system_time()).to_string();
        text.replace(['-', ':'], "")
    }

    /// Returns the time `micros` microseconds later, or the latest possible time.
    pub fn plus_micros(self, micros: u64) -> UnixNanos {
        UnixNanos(self.0.saturating_add(micros.saturating_mul(1_000)))
    }

    /// Parses RFC 3339, with `Z` or with an offset. `None` if `text` is something else.
    pub fn parse(text: &str) -> Option<UnixNanos> {
        let upper = text.to_ascii_uppercase();
        let (local, offset) = match upper.strip_suffix('Z') {
            Some(local) => (local, 0),
            None => {
                let (local, offset) = upper.split_at_checked(upper.len().checked_sub(6)?)?;
                let digits = |at: std::ops::Range<usize>| offset.get(at)?.parse::<i64>().ok();
                let (hours, minutes) = (digits(1..3)?, digits(4..6)?);
                if offset.get(3..4) != Some(":") || hours > 23 || minutes > 59 {
                    return None;
                }
                let seconds = hours * 3_600 + minutes * 60;
                match offset.get(..1)? {
                    "+" => (local, seconds),
                    "-" => (local, -seconds),
                    _ => return None,
                }
            }
        };
        let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
        let since = i128::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()?;
        u64::try_from(since - i128::from(offset) * 1_000_000_000).ok().map(UnixNanos)
    }

    /// Returns the duration since `earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: UnixNanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0)
    }
}

impl From<SystemTime> for UnixNanos {
    /// Times before 1970 and after 2554 are clamped, because OTLP cannot express them.
    fn from(time: SystemTime) -> UnixNanos {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let time = UnixNanos(1_795_414_500_123_456_789);
        assert_eq!(time.rfc3339(), "2026-11-23T06:15:00.123Z");
        assert_eq!(time.iso(), "2026-11-23T06:15:00.123456+00:00");
        assert_eq!(time.compact(), "20261123T061500Z");
        for text in [
            "2026-11-23T06:15:00.123456789Z",
            "2026-11-23t08:45:00.123456789+02:30",
            "2026-11-22T23:15:00.123456789-07:00",
        ] {
            assert_eq!(UnixNanos::parse(text), Some(time), "{text}");
        }
        for text in ["", "é", "2026-11-23", "2026-11-23T06:15:00", "2026-11-23T06:15:00+99:00"] {
            assert_eq!(UnixNanos::parse(text), None, "{text}");
        }
        assert_eq!(time.plus_micros(2).0, 1_795_414_500_123_458_789);
    }
}
