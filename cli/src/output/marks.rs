//! Owns the marks of a checklist: √ × ‼ where the terminal can show them, else ASCII; coloured on a terminal unless
//! `NO_COLOR` is set (no-color.org) or the terminal is dumb.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Good,
    Mild,
    Bad,
}

/// How marks look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
    pub unicode: bool,
}

impl Style {
    /// As the environment says; `terminal`: output goes to one.
    pub fn new(terminal: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
        Self {
            colour: terminal && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb"),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    pub fn show(self, mark: Mark) -> String {
        let (unicode, ascii, colour) = match mark {
            Mark::Good => ("√", "+", 32),
            Mark::Mild => ("‼", "!", 33),
            Mark::Bad => ("×", "x", 31),
        };
        let glyph = if self.unicode { unicode } else { ascii };
        if self.colour { format!("\x1b[{colour}m{glyph}\x1b[0m") } else { glyph.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides() {
        let style = |terminal, vars: &'static [(&str, &str)]| {
            Style::new(terminal, |name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        for (style, good) in [
            (style(true, &[("LANG", "de_DE.UTF-8"), ("TERM", "xterm")]), "\x1b[32m√\x1b[0m"),
            (style(true, &[("LANG", "C.utf8"), ("TERM", "xterm"), ("NO_COLOR", "1")]), "√"),
            (style(true, &[("LANG", "en_US.UTF-8"), ("LC_ALL", "C"), ("TERM", "dumb")]), "+"),
            (style(false, &[("LC_CTYPE", "C.UTF-8"), ("TERM", "xterm")]), "√"),
            (style(true, &[]), "+"),
        ] {
            assert_eq!(style.show(Mark::Good), good);
        }
    }
}
