//! Columns as Go's tabwriter makes them: each as wide as its widest cell and three spaces.

/// Rows that are held back until the widths are known; then the widths stay at least as they are.
const ROWS_MAX: usize = 512;
const PADDING: usize = 3;

/// Rows that have not been given out.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// Adds a row; gives text when enough rows have come together.
    pub(super) fn row(&mut self, header: bool, fields: Vec<(&'static str, String)>) -> String {
        if header {
            self.rows
                .push(fields.iter().map(|(key, _)| (*key).to_owned()).collect());
        }
        self.rows.push(fields.into_iter().map(|(_, value)| value).collect());
        if self.rows.len() >= ROWS_MAX {
            self.take()
        } else {
            String::new()
        }
    }

    /// The rows so far.
    pub(super) fn take(&mut self) -> String {
        for row in &self.rows {
            // The last cell belongs to no column.
            for (index, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                let width = cell.chars().count() + PADDING;
                match self.widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => self.widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for row in self.rows.drain(..) {
            let last = row.len().saturating_sub(1);
            for (index, cell) in row.iter().enumerate() {
                out.push_str(cell);
                let width = self.widths.get(index).copied().filter(|_| index != last).unwrap_or(0);
                let spaces = width.saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n(' ', spaces));
            }
            out.push('\n');
        }
        out
    }
}
