//! Points in time as OTLP and the written-back file spell them.
//!
//! The clock is read at the edges only; everything pure gets a [`UnixNanos`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970-01-01T00:00:00Z, as OTLP counts (`fixed64 *_time_unix_nano`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// The present, by the system's clock.
    pub fn now() -> UnixNanos {
        UnixNanos::from(SystemTime::now())
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-23T06:15:00.123Z`.
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_millis(self.system_time()).to_string()
    }

    /// ISO 8601 with microseconds and an offset: `2026-11-23T06:15:00.123456+00:00`.
    pub fn iso(self) -> String {
        humantime::format_rfc3339_micros(self.system_time()).to_string().replace('Z', "+00:00")
    }

    /// The short form used in ids: `20261123T061500Z`.
    pub fn compact(self) -> String {
        let text = humantime::format_rfc3339_seconds(self.system_time()).to_string();
        text.replace(['-', ':'], "")
    }

    /// This moment and `micros` microseconds; saturates at the end of time.
    pub fn plus_micros(self, micros: u64) -> UnixNanos {
        UnixNanos(self.0.saturating_add(micros.saturating_mul(1_000)))
    }

    fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0)
    }
}

impl From<SystemTime> for UnixNanos {
    /// Times before 1970 and after 2554 are clamped; OTLP cannot say them.
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
        assert_eq!(time.plus_micros(2).0, 1_795_414_500_123_458_789);
    }
}
