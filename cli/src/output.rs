//! Owns everything that is printed: data to standard output, talk to standard error. No other file prints.
//!
//! Tables and JSON are made in `output/table.rs` from the same rows; numbers get their units in `output/units.rs`;
//! `output/screen.rs` paints pictures that change.

pub mod marks;
mod screen;
pub mod table;
pub mod typed;
pub mod units;

use std::io::{self, IsTerminal, Write};

use self::{
    marks::{Mark, Style},
    screen::Screen,
    typed::Typed,
};
use crate::failure::{Exit, Failure};

/// Longest text of somebody else that is shown, in characters.
const PLAIN_MAX: usize = 1_000;

/// Words that came from elsewhere, on one line and without what a terminal would act on.
pub fn plain(text: &str) -> String {
    let calm = |c: char| if c.is_control() { ' ' } else { c };
    let words: String = text.trim().chars().map(calm).take(PLAIN_MAX).collect();
    words.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    let told = terminal_size::terminal_size().map(|(width, height)| (height.0.into(), width.0.into()));
    told.filter(|size| *size != (0, 0)).unwrap_or(screen::SIZE)
}

/// Where output goes.
pub struct Printer {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    terminal: bool,
    style: Style,
    screen: Screen,
    typed: Typed,
}

impl Printer {
    pub fn standard() -> Self {
        let env = |name: &str| std::env::var(name).ok();
        // One that cannot move its cursor gets what a file gets.
        let terminal = io::stdout().is_terminal() && env("TERM").is_none_or(|term| term != "dumb");
        let style = Style::new(terminal, env);
        Self { terminal, style, ..Self::to(Box::new(io::stdout()), Box::new(io::stderr())) }
    }

    pub fn to(out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        Self { out, err, terminal: false, style: Style::default(), screen: Screen::default(), typed: Typed::default() }
    }

    /// From now on, hinted commands have the options that were typed.
    pub fn repeat(&mut self, typed: Typed) {
        self.typed = typed;
    }

    /// What hinted commands are to have.
    pub fn typed(&self) -> &Typed {
        &self.typed
    }

    /// Whether output goes to a person's terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns of the terminal, if output goes to one.
    pub fn columns(&self) -> Option<usize> {
        self.terminal.then(|| size().1)
    }

    /// The mark of a line in a checklist, as it can be shown here.
    pub fn mark(&self, mark: Mark) -> String {
        self.style.show(mark)
    }

    /// Prints what was asked for, and flushes it.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        write!(self.out, "{text}{newline}").and_then(|()| self.out.flush()).map_err(|e| Failure::output(&e))
    }

    /// Prints the next picture of something that changes: in place on a terminal, where nothing else may be printed
    /// before [`Printer::clear`], else one after the other.
    pub fn refresh(&mut self, text: &str) -> Result<(), Failure> {
        if !self.terminal {
            return self.data(text);
        }
        let painted = self.screen.paint(text, size());
        write!(self.out, "{painted}").and_then(|()| self.out.flush()).map_err(|e| Failure::output(&e))
    }

    /// Takes the last picture off a terminal.
    pub fn clear(&mut self) -> Result<(), Failure> {
        if self.terminal { self.refresh("") } else { Ok(()) }
    }

    /// Prints what a person should know and a script should not read.
    pub fn note(&mut self, text: &str) {
        // With standard error closed nobody is there to be told.
        let _ = writeln!(self.err, "{}", self.typed.put_into(text));
    }

    pub fn failure(&mut self, failure: &Failure) {
        self.note(&failure.to_string());
    }

    /// Prints help or the version (asked for, so to standard output), or what was wrong with the arguments.
    pub fn usage(&mut self, usage: &clap::Error) -> Exit {
        if usage.use_stderr() {
            self.note(usage.to_string().trim_end());
            return Exit::Usage;
        }
        match self.data(&usage.to_string()) {
            Err(failure) if !failure.is_broken_pipe() => failure.exit(),
            _ => Exit::Ok,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    /// Remembers what is written to it.
    #[derive(Clone, Default)]
    pub struct Captured(Rc<RefCell<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).expect("UTF-8")
        }
    }

    #[test]
    fn foreign_words_cannot_move_the_cursor() {
        assert_eq!(plain("a\x1b[2Jb\r\n  c\u{9b}d"), "a [2Jb c d");
        assert_eq!(plain(&"x".repeat(5_000)).len(), PLAIN_MAX);
    }
}
