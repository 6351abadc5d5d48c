//! Owns what a daemon says of itself when asked on the command line, and nothing else: settings come from the environment,
//! and what there is to do is said by whoever has more than one thing to do.

use std::{io::Write, process::ExitCode};

/// Exit code of a command line that means nothing, as everybody's.
const EXIT_USAGE: u8 = 2;
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
    // For whoever typed it, not for a log.
    let _ = std::io::stderr().write_all(refusal(words, name, help).as_bytes());
    ExitCode::from(EXIT_USAGE)
}

fn refusal(words: &[&str], name: &str, help: &str) -> String {
    let said: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("error: {name} does not know what {} means\n\n{help}\n", said.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_refused_with_all_there_is() {
        let said = refusal(&["init", "--he\x1blb"], "x", "what it is");
        assert_eq!(said, "error: x does not know what \"init\" \"--he\\u{1b}lb\" means\n\nwhat it is\n");
    }

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
