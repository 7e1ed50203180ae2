//! Judges whether the program is healthy. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::base::clock::UnixNanos;
use crate::queue::Health;

/// The facts that health is judged by.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// How long the oldest export has been waiting for its delivery.
    pub(crate) undelivered: Option<Duration>,
    /// How long the oldest delivered export has been waiting for its write-back, and why.
    pub(crate) unwritten: Option<(Duration, String)>,
    /// Number of dead letters.
    pub(crate) refused: usize,
    pub(crate) queue: Health,
    /// Watched directories that cannot be read.
    pub(crate) unreadable: BTreeSet<PathBuf>,
    /// Duration of the scan in progress, if any.
    pub(crate) looking: Option<Duration>,
    /// Whether every receiver has finished a scan.
    pub(crate) has_looked: bool,
    pub(crate) is_stopping: bool,
}

impl Facts {
    /// Returns the reasons for which the program is unhealthy. Empty if it is healthy.
    pub(crate) fn unhealthy(&self, unhealthy_after: Duration) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.refused > 0 {
            let refused = self.refused;
            reasons.push(format!("{refused} export(s) were refused (`taskspan queue list`)"));
        }
        if let Some((_, reason)) = self.unwritten.as_ref().filter(|(age, _)| *age > unhealthy_after)
        {
            reasons.push(format!("an export is delivered, but not written back: {reason}"));
        }
        if let Some(age) = self.undelivered.filter(|age| *age > unhealthy_after) {
            let (age, limit) = (seconds(age), humantime::format_duration(unhealthy_after));
            reasons.push(format!(
                "an export has waited for its delivery for {age}, more than {limit} \
                 (`taskspan queue list`)"
            ));
        }
        if let Some(age) = self.looking.filter(|age| *age > unhealthy_after) {
            let age = seconds(age);
            reasons.push(format!(
                "the directories have been looked at for {age} without an end: a mount may hang"
            ));
        }
        if let Health::Failing(reason) = &self.queue {
            reasons.push(reason.clone());
        }
        for directory in &self.unreadable {
            reasons.push(format!("{}: cannot be looked into", directory.display()));
        }
        reasons
    }

    /// Returns the reasons for which the program is not ready. Empty if it is ready.
    pub(crate) fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_stopping {
            reasons.push("it is stopping".to_owned());
        }
        if !self.has_looked {
            reasons.push("the directories were not looked into yet".to_owned());
        }
        match &self.queue {
            Health::Good => {}
            Health::Full(reason) | Health::Failing(reason) => reasons.push(reason.clone()),
        }
        reasons
    }
}

fn seconds(age: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(age.as_secs()))
}

/// Formats the answer like the Collector's extension, with the reasons added.
pub(crate) fn body(reasons: &[String], uptime: Duration) -> Value {
    if reasons.is_empty() {
        let now = UnixNanos::now().0;
        let since = now.saturating_sub(u64::try_from(uptime.as_nanos()).unwrap_or(now));
        let since = UnixNanos(since);
        let uptime = Duration::from_millis(u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX));
        json!({
            "status": "Server available",
            "upSince": since.rfc3339(),
            "uptime": humantime::format_duration(uptime).to_string(),
        })
    } else {
        json!({"status": "Server not available", "reasons": reasons})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    fn well() -> Facts {
        Facts {
            undelivered: None,
            unwritten: None,
            refused: 0,
            queue: Health::Good,
            unreadable: BTreeSet::new(),
            looking: None,
            has_looked: true,
            is_stopping: false,
        }
    }

    #[test]
    fn each_reason_is_reported() {
        assert!(well().unhealthy(LIMIT).is_empty() && well().unready().is_empty());
        let young = Facts { undelivered: Some(LIMIT), ..well() };
        assert!(young.unhealthy(LIMIT).is_empty());
        let old = Facts { undelivered: Some(LIMIT + Duration::from_secs(1)), ..well() };
        assert!(old.unhealthy(LIMIT)[0].contains("5m 1s, more than 5m"));
        assert!(old.unready().is_empty());
        let refused = Facts { refused: 2, ..well() };
        assert!(refused.unhealthy(LIMIT)[0].starts_with("2 export(s) were refused"));
        let late = (LIMIT + Duration::from_secs(1), "read-only".to_owned());
        let unwritten = Facts { unwritten: Some(late), ..well() };
        assert!(unwritten.unhealthy(LIMIT)[0].ends_with("not written back: read-only"));
        let hanging = Facts { looking: Some(LIMIT + Duration::from_secs(1)), ..well() };
        assert!(hanging.unhealthy(LIMIT)[0].contains("for 5m 1s without an end"));
        let busy = Facts { looking: Some(LIMIT), ..well() };
        assert!(busy.unhealthy(LIMIT).is_empty());
        let failing = Facts { queue: Health::Failing("no disk".into()), ..well() };
        assert_eq!(failing.unhealthy(LIMIT), ["no disk"]);
        let closed = Facts { unreadable: ["/x".into()].into(), ..well() };
        assert_eq!(closed.unhealthy(LIMIT), ["/x: cannot be looked into"]);
        let full = Facts { queue: Health::Full("full".into()), ..well() };
        assert_eq!((full.unhealthy(LIMIT).len(), full.unready()), (0, vec!["full".to_owned()]));
        let stopping = Facts { is_stopping: true, has_looked: false, ..well() };
        assert_eq!((stopping.unhealthy(LIMIT).len(), stopping.unready().len()), (0, 2));
    }
}
