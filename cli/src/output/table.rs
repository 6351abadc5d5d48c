//! Owns the two looks of a result, made from the same rows: aligned text for people, JSON for programs.
//!
//! What a row means is its command's business; how a number looks is `units.rs`'.

use serde::Serialize;

/// Version of the JSON of every live command. Fields are added without a new version, never renamed or removed.
pub const SCHEMA_VERSION: u32 = 1;
/// Blanks between columns.
const GAP: usize = 2;
/// Narrowest that a column of names is made on a small terminal.
const NAME_MIN: usize = 12;
/// What stands for the middle of a name that is too long.
const CUT: &str = "..";

/// What the reader asked to see.
#[derive(Clone, Copy, Default)]
pub struct View {
    /// A NAMESPACE column in front.
    pub namespaces: bool,
    /// The columns of `-o wide`.
    pub wide: bool,
    /// Columns of the terminal, where there is one: longer names lose their middle.
    pub columns: Option<usize>,
}

/// One column of a table.
pub struct Column {
    title: &'static str,
    right: bool,
    shown: fn(View) -> bool,
}

impl Column {
    /// Text: left aligned.
    pub const fn text(title: &'static str) -> Self {
        Self { title, right: false, shown: |_| true }
    }

    /// Numbers: right aligned, so that digits of one weight stand under each other.
    pub const fn number(title: &'static str) -> Self {
        Self { title, right: true, shown: |_| true }
    }

    /// Shown only where `when` says so.
    pub const fn only(self, when: fn(View) -> bool) -> Self {
        Self { shown: when, ..self }
    }
}

/// One line of a table, one element of the JSON.
pub trait Row: Serialize {
    const COLUMNS: &'static [Column];
    /// One text for each of [`Row::COLUMNS`], shown or not.
    fn cells(&self, view: View) -> Vec<String>;
}

/// Aligned text with a header line.
pub fn text<R: Row>(rows: &[R], view: View) -> String {
    let header = R::COLUMNS.iter().map(|column| column.title.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().map(|row| row.cells(view))).collect();
    let mut columns: Vec<(usize, &Column, usize)> = R::COLUMNS
        .iter()
        .enumerate()
        .filter(|(_, column)| (column.shown)(view))
        .map(|(at, column)| (at, column, width(&lines, at)))
        .collect();
    fit(&mut columns, view.columns);
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            columns.iter().map(|&(at, column, width)| pad(&shorten(&line[at], width), width, column.right)).collect();
        text.push_str(cells.join(&" ".repeat(GAP)).trim_end());
        text.push('\n');
    }
    text
}

fn width(lines: &[Vec<String>], at: usize) -> usize {
    lines.iter().map(|line| line[at].chars().count()).max().unwrap_or_default()
}

/// Takes from the widest columns of names until all fit; nothing where that cannot be.
fn fit(columns: &mut [(usize, &Column, usize)], room: Option<usize>) {
    let Some(room) = room else { return };
    let all: usize = columns.iter().map(|(.., width)| width + GAP).sum::<usize>().saturating_sub(GAP);
    let names =
        |(_, column, width): &(usize, &Column, usize)| if column.right { 0 } else { width.saturating_sub(NAME_MIN) };
    let excess = all.saturating_sub(room);
    if excess > columns.iter().map(names).sum() {
        return;
    }
    for _ in 0..excess {
        if let Some((.., widest)) =
            columns.iter_mut().filter(|(_, column, _)| !column.right).max_by_key(|(.., width)| *width)
        {
            *widest -= 1;
        }
    }
}

/// The text, without its middle if it is longer than `width`: names differ in their ends.
fn shorten(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        return cell.to_owned();
    }
    let kept = width.saturating_sub(CUT.len());
    let (head, tail) = (kept - kept / 2, kept / 2);
    cell.chars().take(head).chain(CUT.chars()).chain(cell.chars().skip(length - tail)).collect()
}

fn pad(cell: &str, width: usize, right: bool) -> String {
    if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

#[derive(Serialize)]
struct Document<'a, R> {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_s: Option<u64>,
    rows: &'a [R],
}

/// JSON for a file or a pipe; `window_s` is the time span that the numbers are about, where there is one.
pub fn json<R: Row>(rows: &[R], window_s: Option<u64>) -> String {
    let document = Document { schema_version: SCHEMA_VERSION, window_s, rows };
    // Rows are plain structs of numbers and texts with string keys: there is nothing in them that JSON cannot hold.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// JSON on one line, for commands that print again and again.
pub fn json_line<R: Row>(rows: &[R], window_s: Option<u64>) -> String {
    let document = Document { schema_version: SCHEMA_VERSION, window_s, rows };
    serde_json::to_string(&document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fruit {
        name: &'static str,
        kilos: u32,
        origin: &'static str,
    }

    impl Row for Fruit {
        const COLUMNS: &'static [Column] =
            &[Column::text("NAME"), Column::number("KILOS"), Column::text("ORIGIN").only(|view| view.wide)];
        fn cells(&self, _: View) -> Vec<String> {
            vec![self.name.to_owned(), self.kilos.to_string(), self.origin.to_owned()]
        }
    }

    const FRUITS: [Fruit; 2] =
        [Fruit { name: "äpple", kilos: 7, origin: "here" }, Fruit { name: "fig", kilos: 1_200, origin: "far" }];

    #[test]
    fn names_left_numbers_right_by_characters() {
        assert_eq!(text(&FRUITS, View::default()), "NAME   KILOS\näpple      7\nfig     1200\n");
    }

    #[test]
    fn hidden_columns_take_no_room() {
        let wide = View { wide: true, ..View::default() };
        assert_eq!(text(&FRUITS[1..], wide), "NAME  KILOS  ORIGIN\nfig    1200  far\n");
        assert_eq!(text::<Fruit>(&[], View::default()), "NAME  KILOS\n");
    }

    #[test]
    fn on_a_small_terminal_long_names_lose_their_middle() {
        let long = [Fruit { name: "deploy/a-very-long-name-of-a-fruit-2", kilos: 7, origin: "somewhere/far-away" }];
        let shown = |columns| text(&long, View { wide: true, columns: Some(columns), ..View::default() });
        let whole = text(&long, View { wide: true, ..View::default() });
        assert_eq!(shown(63), whole);
        assert_eq!(shown(50).lines().nth(1), Some("deploy/a-ve..-a-fruit-2      7  somewhere/far-away"));
        assert_eq!(shown(40).lines().nth(1), Some("deploy/..fruit-2      7  somewhe..r-away"));
        assert_eq!(shown(33).lines().nth(1), Some("deplo..uit-2      7  somew..-away"));
        // Numbers are never cut, nor a name beyond recognition, nor anything in vain.
        assert_eq!(shown(32), whole);
        assert!(shown(50).lines().all(|line| line.chars().count() <= 50), "{}", shown(50));
    }

    #[test]
    fn json_has_every_field_whatever_the_view() {
        let value: serde_json::Value = serde_json::from_str(&json(&FRUITS, Some(60))).expect("valid JSON");
        assert_eq!(value["schema_version"], 1);
        assert_eq!(value["window_s"], 60);
        assert_eq!(value["rows"][1]["origin"], "far");
        assert!(!json_line(&FRUITS, None).contains(['\n']));
        assert!(!json_line(&FRUITS, None).contains("window_s"));
    }
}
