//! Columns as wide as they must be; the last one is broken at the terminal's width.

use super::Style;
use crate::base::escape;

const GAP: usize = 3;
/// Before each line of a note.
const NOTE: &str = "    ";
/// Less room than this for the last column, and it is not broken at all.
const NARROWEST: usize = 20;

/// Rows under a heading.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
    /// What stands below a row, by its number.
    notes: Vec<(usize, String)>,
}

#[derive(Clone, Debug)]
struct Cell {
    text: String,
    /// SGR parameters, such as `31`.
    color: Option<&'static str>,
}

impl Table {
    pub fn new(heading: &[&str]) -> Self {
        let mut table = Self::default();
        table.push(heading.iter().map(|h| (*h).to_owned()));
        table
    }

    /// Adds a row; it has as many cells as the heading.
    pub fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|text| Cell { text: one_line(&text), color: None }).collect());
    }

    /// Colors the first cell of the last row, where colors are shown.
    pub fn color_last(&mut self, color: &'static str) {
        if let Some(cell) = self.rows.last_mut().and_then(|row| row.first_mut()) {
            cell.color = Some(color);
        }
    }

    /// Adds a line below the last row; nothing when it is empty.
    pub fn note(&mut self, text: &str) {
        if !text.is_empty() {
            self.notes.push((self.rows.len().saturating_sub(1), one_line(text)));
        }
    }

    pub fn render(&self, style: Style) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |i: usize| self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.text.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
        let before: usize = widths.iter().take(columns.saturating_sub(1)).map(|w| w + GAP).sum();
        let room = style.width.map(|w| w.saturating_sub(before)).filter(|room| *room >= NARROWEST);
        let mut out = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                if i + 1 == columns {
                    let broken = break_at(&cell.text, room);
                    line.push_str(&broken.join(&format!("\n{}", " ".repeat(before))));
                } else {
                    line.push_str(&painted(cell, style));
                    let pad = widths.get(i).copied().unwrap_or(0) + GAP;
                    line.extend(std::iter::repeat_n(' ', pad.saturating_sub(cell.text.chars().count())));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
            for (_, note) in self.notes.iter().filter(|(row, _)| *row == number) {
                let room = style.width.map(|width| width.saturating_sub(NOTE.len())).filter(|room| *room >= NARROWEST);
                for line in break_at(note, room) {
                    out.push_str(&format!("{NOTE}{line}\n"));
                }
            }
        }
        out
    }
}

fn painted(cell: &Cell, style: Style) -> String {
    match cell.color.filter(|_| style.color) {
        Some(color) => format!("\x1b[{color}m{}\x1b[0m", cell.text),
        None => cell.text.clone(),
    }
}

/// Messages may come from servers: one line each, and nothing that a terminal would obey.
fn one_line(text: &str) -> String {
    escape::for_line(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// Breaks at blanks.
fn break_at(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![text.to_owned()] };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |l| l.chars().count());
        if line > 0 && line + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else if let Some(last) = lines.last_mut() {
            if line > 0 {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "DETAIL"]);
        table.push(["✗ ollama".into(), "Down".into(), "connection refused, and so it has been for a while".into()]);
        table.color_last("31");
        table.push(["✓ mlx".into(), "Serving".into(), String::new()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        assert_eq!(
            table().render(Style::default()),
            "NAME       STATE     DETAIL\n\
             ✗ ollama   Down      connection refused, and so it has been for a while\n\
             ✓ mlx      Serving\n"
        );
    }

    #[test]
    fn the_last_column_is_broken_at_the_width_and_stays_in_its_place() {
        let rendered = table().render(Style { color: false, width: Some(46) });
        assert_eq!(
            rendered,
            "NAME       STATE     DETAIL\n\
             ✗ ollama   Down      connection refused, and\n\
             \x20                    so it has been for a\n\
             \x20                    while\n\
             ✓ mlx      Serving\n"
        );
    }

    #[test]
    fn colors_take_no_room_and_are_shown_on_request_only() {
        let colored = table().render(Style { color: true, width: None });
        assert!(colored.contains("\x1b[31m✗ ollama\x1b[0m   Down"), "{colored:?}");
        assert!(!table().render(Style::default()).contains('\x1b'));
    }

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let mut table = Table::new(&["DETAIL"]);
        table.push(["evil\x1b[2J\r\nline".into()]);
        assert_eq!(table.render(Style::default()), "DETAIL\nevil\\u001b[2J line\n");
    }
}
