//! Owns what `mesh check` finds: checks with a result, the words for it and the command that mends it, in categories.
//!
//! Each category is a file of `check/`: facts, a thin function that gathers them, and pure functions that judge them.
//! In which order, how often and how it looks is the business of `commands/check.rs`.

pub mod data_plane;
pub mod environment;
pub mod identity;
pub mod injection;
pub mod install;
pub mod kubernetes;
pub mod network;
pub mod probe;

use serde::Serialize;

use crate::cluster::{ApiError, Cause};

/// Most names that one message lists.
const NAMES_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Success,
    Warning,
    Error,
}

/// One line of the checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What should be so.
    pub description: String,
    pub result: Outcome,
    /// What is so.
    pub message: Option<String>,
    /// The command that mends it, or what to do.
    pub fix: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Category {
    pub name: &'static str,
    pub checks: Vec<Check>,
}

impl Check {
    pub fn good(description: impl Into<String>) -> Self {
        Self { description: description.into(), result: Outcome::Success, message: None, fix: None }
    }

    pub fn bad(description: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let (message, fix) = (Some(message.into()), Some(fix.into()));
        Self { description: description.into(), result: Outcome::Error, message, fix }
    }

    /// It works, but somebody should look at it.
    #[must_use]
    pub fn mild(self) -> Self {
        Self { result: self.result.min(Outcome::Warning), ..self }
    }

    /// It could not be found out. Without the right to know, that is no error of the mesh.
    pub fn unknown(description: impl Into<String>, error: &ApiError) -> Self {
        let fix = error
            .hint
            .clone()
            .unwrap_or_else(|| "try again; `kubectl get --raw /readyz?verbose` tells how the API server is".to_owned());
        let check = Self::bad(description, format!("cannot be checked: {error}"), fix);
        if error.cause == Cause::Forbidden { check.mild() } else { check }
    }
}

/// The worst of all results.
pub fn worst(categories: &[Category]) -> Outcome {
    let results = categories.iter().flat_map(|category| &category.checks).map(|check| check.result);
    results.max().unwrap_or(Outcome::Success)
}

/// The first few of `names`, and how many more there are.
fn some_of<S: AsRef<str>>(names: &[S]) -> String {
    let mut shown: Vec<&str> = names.iter().map(AsRef::as_ref).take(NAMES_MAX).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    let rest = format!("and {more} more");
    if more > 0 {
        shown.push(&rest);
    }
    shown.join(", ")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results and words of one category, to compare.
    pub fn told(checks: &[Check]) -> Vec<(Outcome, String)> {
        let words = |check: &Check| {
            let parts = [Some(check.description.clone()), check.message.clone(), check.fix.clone()];
            (check.result, parts.into_iter().flatten().collect::<Vec<_>>().join(" | "))
        };
        checks.iter().map(words).collect()
    }

    /// Asserts that `checks` has exactly one that is not good, of this `result` and with all `parts` in its words.
    pub fn one_is(checks: &[Check], result: Outcome, parts: &[&str]) {
        let told = told(checks);
        let troubled: Vec<_> = told.iter().filter(|(result, _)| *result != Outcome::Success).collect();
        assert_eq!(troubled.len(), 1, "{told:#?}");
        assert_eq!(troubled[0].0, result, "{troubled:?}");
        assert!(parts.iter().all(|part| troubled[0].1.contains(part)), "{parts:?} in {troubled:?}");
        let has_command = |check: &Check| check.fix.as_ref().is_some_and(|fix| fix.matches('`').count() >= 2);
        assert!(
            checks.iter().all(|check| check.result == Outcome::Success || has_command(check)),
            "a command for each: {told:#?}"
        );
    }

    /// Asserts that all is well.
    pub fn all_good(checks: &[Check]) {
        assert!(
            !checks.is_empty() && checks.iter().all(|check| check.result == Outcome::Success),
            "{:#?}",
            told(checks)
        );
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e, and 2 more");
    }

    #[test]
    fn what_may_not_be_known_is_a_warning() {
        let check = |cause| Check::unknown("x", &ApiError::new(cause, "no").hint("do")).result;
        assert_eq!((check(Cause::Forbidden), check(Cause::Timeout)), (Outcome::Warning, Outcome::Error));
        assert_eq!(Check::good("x").mild().result, Outcome::Success);
    }
}
