//! Owns what a daemon says of itself when asked on the command line, and nothing else: settings come from the environment,
//! and what there is to do is said by whoever has more than one thing to do.

use std::{io::Write, process::ExitCode};

use crate::{log, settings::EXIT_BAD_SETTINGS};

/// The version of the whole workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Answers `--help` and `--version` of the program `name`, if it was asked one of them.
pub fn answered(words: &[&str], name: &str, help: &str) -> Option<ExitCode> {
    let text = text(words, name, help)?;
    // Who asks and does not listen misses nothing.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Some(ExitCode::SUCCESS)
}

fn text(words: &[&str], name: &str, help: &str) -> Option<String> {
    match words {
        ["--help" | "-h"] => Some(format!("{help}\n")),
        ["--version" | "-V"] => Some(format!("{name} {VERSION}\n")),
        _ => None,
    }
}

/// Refuses words that mean nothing.
pub fn refused(words: &[&str], name: &str, help: &str) -> ExitCode {
    // There is no log yet, and this is all that it will say.
    let _ = log::init("error");
    tracing::error!("{name}: unknown arguments {words:?}\n{help}");
    ExitCode::from(EXIT_BAD_SETTINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_words_have_an_answer_each_alone() {
        for (words, expected) in [
            (&["--help"][..], Some("what it is\n")),
            (&["-h"], Some("what it is\n")),
            (&["--version"], Some(concat!("x ", env!("CARGO_PKG_VERSION"), "\n"))),
            (&[], None),
            (&["init", "--help"], None),
            (&["--verbose"], None),
        ] {
            assert_eq!(text(words, "x", "what it is").as_deref(), expected, "{words:?}");
        }
    }
}
