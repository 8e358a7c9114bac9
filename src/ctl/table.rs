//! Tables as kumactl prints them: upper-case headers, columns three spaces apart.

pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headers: &[&str]) -> Self {
        Self { rows: vec![headers.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<w$}   ", w = *width));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `5s`, `3m`, `2h`, `4d`, `1y`; `never` for what has no time.
pub(crate) fn age(since_ms: Option<u64>, now_ms: u64) -> String {
    let Some(since) = since_ms else { return "never".into() };
    let seconds = now_ms.saturating_sub(since) / 1000;
    match seconds {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m", s / 60),
        s if s < 86_400 => format!("{}h", s / 3600),
        s if s < 365 * 86_400 => format!("{}d", s / 86_400),
        s => format!("{}y", s / (365 * 86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, age};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["MESH", "NAME"]);
        table.row(vec!["default".into(), "x".into()]);
        assert_eq!(table.render(), "MESH      NAME\ndefault   x\n");
    }

    #[test]
    fn ages_have_one_unit() {
        assert_eq!(age(Some(0), 59_000), "59s");
        assert_eq!(age(Some(0), 7_200_000), "2h");
        assert_eq!(age(None, 1), "never");
    }
}
