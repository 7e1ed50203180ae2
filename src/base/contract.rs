//! Values that the contracts between the phases of a workflow allow.

use std::str::FromStr;

/// Declares an enumeration together with the spelling of each value.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($value:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name {
            $($value,)+
        }

        impl $name {
            /// All values, in the order of the contract.
            pub(crate) const WORDS: &[&str] = &[$($word),+];

            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $($name::$value => $word,)+
                }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                match text {
                    $($word => Ok($name::$value),)+
                    _ => Err(crate::base::diagnostics::unknown($what, text, $name::WORDS)),
                }
            }
        }
    };
}

words! {
    /// A phase of the workflow that starts with an export.
    Phase, "phase":
    InitBaseline = "INIT_BASELINE",
    ExportContract = "EXPORT_CONTRACT",
    ContractIntegrity = "CONTRACT_INTEGRITY",
    IngestParseAssess = "INGEST_PARSE_ASSESS",
    RoutingDecision = "ROUTING_DECISION",
    ArtisanDesign = "ARTISAN_DESIGN",
    ArtisanImplement = "ARTISAN_IMPLEMENT",
    TestValidate = "TEST_VALIDATE",
    ReviewCalibrate = "REVIEW_CALIBRATE",
    FinalizeVerify = "FINALIZE_VERIFY",
    Other = "OTHER",
}

words! {
    /// The progress of a task, as in a TaskSpanContract.
    TaskStatus, "status":
    NotStarted = "not_started",
    InProgress = "in_progress",
    Blocked = "blocked",
    Completed = "completed",
    Failed = "failed",
}

words! {
    /// The result of a gate.
    GateOutcome, "result":
    Pass = "pass",
    Fail = "fail",
}

words! {
    /// The severity of a gate's result.
    Severity, "severity":
    Info = "info",
    Warning = "warning",
    Error = "error",
    Critical = "critical",
}

impl TaskStatus {
    /// Parses a status of the contract, or `todo` and `done`, which ContextCore's task tracker
    /// uses.
    ///
    /// # Errors
    /// Returns a message that lists the valid values.
    pub(crate) fn of_word(word: &str) -> Result<TaskStatus, String> {
        match word {
            "todo" => Ok(TaskStatus::NotStarted),
            "done" => Ok(TaskStatus::Completed),
            word => word.parse().map_err(|_| {
                let words = [TaskStatus::WORDS, &["todo", "done"]].concat();
                crate::base::diagnostics::unknown("status", word, &words)
            }),
        }
    }

    /// Returns the value of the attribute `task.status`.
    pub(crate) fn attribute(self) -> &'static str {
        match self {
            TaskStatus::NotStarted => "todo",
            TaskStatus::Completed => "done",
            TaskStatus::InProgress | TaskStatus::Blocked | TaskStatus::Failed => self.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_of_the_contract_is_refused_with_the_list() {
        for word in Phase::WORDS {
            assert_eq!(word.parse::<Phase>().map(Phase::as_str), Ok(*word));
        }
        assert_eq!(TaskStatus::of_word("done"), Ok(TaskStatus::Completed));
        assert_eq!(TaskStatus::of_word("todo"), Ok(TaskStatus::NotStarted));
        assert_eq!(TaskStatus::of_word("blocked"), Ok(TaskStatus::Blocked));
        let error = "COMPLETE".parse::<TaskStatus>().expect_err("no status");
        for word in TaskStatus::WORDS {
            assert!(error.contains(word), "{error}");
        }
    }
}
