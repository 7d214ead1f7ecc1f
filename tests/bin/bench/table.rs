//! Tables in Markdown, and figures with their spread.

/// From how many rounds on the ends are the quartiles: the least and the most of many are of minutes in which something else ran.
const MANY: usize = 9;

/// The middle of several rounds, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Middle value.
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        assert!(!sorted.is_empty(), "no rounds");
        let end = if sorted.len() < MANY { 0 } else { sorted.len() / 4 };
        Self { median: sorted[sorted.len() / 2], least: sorted[end], most: sorted[sorted.len() - 1 - end] }
    }

    /// What [`Spread::show`] shows of so many rounds.
    pub const fn legend(rounds: usize) -> &'static str {
        if rounds < MANY { "median (least to most)" } else { "median (quartiles)" }
    }

    /// `median (least to most)`, or of many rounds `median (quartile to quartile)`.
    pub fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}

/// Rows under a heading.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With these columns.
    pub fn new(columns: &[&str]) -> Self {
        Self(vec![columns.iter().map(|name| (*name).to_owned()).collect()])
    }

    /// Adds a row with as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.0[0].len(), "cells of {cells:?}");
        self.0.push(cells);
    }

    /// Prints it, and an empty line.
    pub fn print(&self) {
        println!("{}", self.text());
    }

    /// The first column to the left, figures to the right.
    fn text(&self) -> String {
        let columns = self.0[0].len();
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!(" {cell:<width$} "),
                _ => format!(" {cell:>width$} "),
            });
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let rule = widths.iter().enumerate().map(|(column, width)| match column {
            0 => format!(" {} ", "-".repeat(*width)),
            _ => format!(" {}: ", "-".repeat(width - 1)),
        });
        let rule = format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
        self.0.iter().enumerate().map(|(index, row)| if index == 0 { line(row) + &rule } else { line(row) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_the_middle_and_the_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()).show(1), "2.0 (1.0 to 3.0)");
        assert_eq!(Spread::of((1..=9).map(f64::from)).show(0), "5 (3 to 7)");
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["mode", "us"]);
        table.row(vec!["off".into(), "12.5".into()]);
        assert_eq!(table.text(), "| mode |   us |\n| ---- | ---: |\n| off  | 12.5 |\n");
    }
}
