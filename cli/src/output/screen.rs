//! Owns a picture that changes on a terminal: each is painted over the one before, and cut to what fits, so that nothing
//! scrolls and what stood there before the command stays. Pure: `output.rs` writes what is made here.

use std::fmt::Write;

/// Rows and columns where the terminal does not tell.
pub const SIZE: (usize, usize) = (24, 80);

#[derive(Default)]
pub struct Screen {
    /// Rows of the last picture, which are above the cursor.
    painted: usize,
}

impl Screen {
    /// What to write so that `text` replaces the last picture, on a terminal of `rows` and `columns`. No text: only
    /// the last picture goes.
    pub fn paint(&mut self, text: &str, (rows, columns): (usize, usize)) -> String {
        let mut out = String::new();
        if self.painted > 0 {
            let _ = write!(out, "\x1b[{}A\x1b[J", self.painted);
        }
        // The cursor stands below the picture, in the last row.
        let room = rows.saturating_sub(1).max(1);
        let all = text.lines().count();
        let shown = if all > room { room - 1 } else { all };
        for line in text.lines().take(shown) {
            cut(line, columns, &mut out);
            out.push('\n');
        }
        self.painted = shown;
        if all > shown {
            let mut rest = String::new();
            let _ = write!(rest, "... and {} more lines", all - shown);
            cut(&rest, columns, &mut out);
            out.push('\n');
            self.painted += 1;
        }
        out
    }
}

/// Writes as much of a line as the terminal has columns; what colours it takes none.
fn cut(line: &str, columns: usize, out: &mut String) {
    let (mut column, mut escape) = (0, false);
    for c in line.chars() {
        if c == '\x1b' {
            escape = true;
        } else if escape {
            escape = c != 'm';
        } else {
            column += 1;
            if column > columns {
                continue;
            }
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As much of a terminal as a picture needs: what is on it, and how often it has scrolled.
    struct Terminal {
        lines: Vec<String>,
        row: usize,
        rows: usize,
        scrolled: usize,
    }

    impl Terminal {
        fn of(rows: usize) -> Self {
            Self { lines: vec![String::new()], row: 0, rows, scrolled: 0 }
        }

        fn write(&mut self, text: &str) {
            let mut rest = text;
            while let Some(c) = rest.chars().next() {
                if let Some(sequence) = rest.strip_prefix("\x1b[") {
                    let end = sequence.find(|c: char| c.is_ascii_alphabetic()).expect("its end");
                    match &sequence[end..=end] {
                        "A" => self.row -= sequence[..end].parse::<usize>().expect("rows"),
                        "J" => self.lines.truncate(self.row),
                        _ => {}
                    }
                    rest = &sequence[end + 1..];
                    continue;
                }
                self.lines.resize(self.lines.len().max(self.row + 1), String::new());
                if c == '\n' {
                    self.row += 1;
                    if self.row == self.rows {
                        self.lines.remove(0);
                        (self.row, self.scrolled) = (self.row - 1, self.scrolled + 1);
                    }
                } else {
                    self.lines[self.row].push(c);
                }
                rest = &rest[c.len_utf8()..];
            }
        }
    }

    #[test]
    fn a_picture_replaces_the_one_before_and_nothing_scrolls() {
        let (mut terminal, mut screen) = (Terminal::of(6), Screen::default());
        terminal.write("$ mesh top\n");
        for (text, shown) in [
            ("one\ntwo\n", vec!["$ mesh top", "one", "two"]),
            ("1\n2\n3\n4\n", vec!["$ mesh top", "1", "2", "3", "4"]),
            ("a\n", vec!["$ mesh top", "a"]),
            ("\x1b[32m√\x1b[0m good enough for you\n", vec!["$ mesh top", "√ good eno"]),
            ("", vec!["$ mesh top"]),
        ] {
            terminal.write(&screen.paint(text, (6, 10)));
            let lines: Vec<&str> = terminal.lines.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
            assert_eq!((lines, terminal.scrolled), (shown, 0), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_scrolls_once_at_most() {
        let (mut terminal, mut screen) = (Terminal::of(4), Screen::default());
        terminal.write("$\n$\n");
        for _ in 0..3 {
            terminal.write(&screen.paint("1\n2\n3\n4\n5\n", (4, 80)));
            let lines: Vec<&str> = terminal.lines.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
            assert_eq!((lines, terminal.scrolled), (vec!["1", "2", "... and 3 more lines"], 2));
        }
        assert_eq!(Screen::default().paint("1\n2\n", (1, 80)), "... and 2 more lines\n", "the smallest");
    }
}
