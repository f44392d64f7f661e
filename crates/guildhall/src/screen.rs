//! Standard output: text, JSON and tables. A reader that has seen enough (`| head`) is no failure.

use std::io::{ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Shows `text` and ends the line.
pub(crate) fn say(text: impl AsRef<str>) -> Result<(), Failure> {
    is_heard(text).map(drop)
}

/// As [`say`]; false when nobody reads any more.
pub(crate) fn is_heard(text: impl AsRef<str>) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.as_ref().trim_end_matches('\n')).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
    }
}

pub(crate) fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    say(pretty(value))
}

pub(crate) fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("what is shown as JSON has text for keys")
}

/// A line below the head and nothing else, so that a row is a row.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// On a terminal as wide as it is; elsewhere a row is one line, for grep and its like.
pub(crate) fn table<const COLUMNS: usize>(head: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) -> String {
    let arrangement =
        if std::io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    lay_out(head, rows, arrangement).trim_fmt()
}

fn lay_out<const COLUMNS: usize>(
    head: [&str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
    arrangement: ContentArrangement,
) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(head.to_vec()).add_rows(rows.into_iter().map(Vec::from));
    table.set_content_arrangement(arrangement);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents() -> Vec<[String; 3]> {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        vec![row(["worker-1", "active", "code, review, translation, planning"]), row(["b", "idle", ""])]
    }

    #[test]
    fn for_scripts_a_row_is_one_line_without_colours() {
        let table = lay_out(["agent", "status", "capabilities"], agents(), ContentArrangement::Disabled).trim_fmt();
        insta::assert_snapshot!(table, @r#"
         agent      status   capabilities
        ─────────────────────────────────────────────────────────
         worker-1   active   code, review, translation, planning
         b          idle
        "#);
    }

    #[test]
    fn on_a_narrow_terminal_a_table_stays_within_it() {
        let mut table = lay_out(["agent", "status", "capabilities"], agents(), ContentArrangement::Dynamic);
        let shown = table.set_width(36).trim_fmt();
        assert!(shown.lines().all(|line| line.chars().count() <= 36), "{shown}");
    }
}
