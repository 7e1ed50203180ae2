//! Steps that move data from tasks to their story until a large trace fits.
//!
//! ```text
//! step        leaves the tasks                              is in the trace once
//! shared      output contract, rules of the type,           story: task.contract, parameter sources,
//!             checksums, criteria, parameter sources                its own contract
//! contracts   every contract, own rules, intents            story: every rule once, with the ids of its
//!                                                           artifacts; an intent per type
//! parameters  long values that several tasks share          story: task.parameters, with the tasks' ids
//! bare        events that repeat attributes, the lists      attributes of the task; story:
//!             of the output contract                        attributes of its task.contract
//! ```
//!
//! A backend drops the spans above its limit per trace and still reports success. So a plan with
//! fewer details on each task is better than one with half of its tasks.

/// The steps that were taken. Each step includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slimming {
    /// Nothing is moved.
    Whole,
    Shared,
    Contracts,
    Parameters,
    Bare,
}

/// Parameters with more bytes of JSON than this are long.
pub(crate) const LONG_PARAMETER: usize = 256;

impl Slimming {
    pub(crate) const LADDER: [Slimming; 5] = [
        Slimming::Whole,
        Slimming::Shared,
        Slimming::Contracts,
        Slimming::Parameters,
        Slimming::Bare,
    ];

    /// Returns the names of the steps that were taken, in order (`taskspan.slimmed`).
    pub(crate) fn steps(self) -> impl Iterator<Item = &'static str> {
        Slimming::LADDER.into_iter().filter(move |step| *step <= self).filter_map(|step| match step
        {
            Slimming::Whole => None,
            Slimming::Shared => Some("shared"),
            Slimming::Contracts => Some("contracts"),
            Slimming::Parameters => Some("parameters"),
            Slimming::Bare => Some("bare"),
        })
    }

    /// Whether a step was taken.
    pub(crate) fn has(self, step: Slimming) -> bool {
        self >= step
    }
}
