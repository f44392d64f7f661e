//! Standard output: text, JSON and tables. A reader that has seen enough (`| head`) is no failure.

use std::io::{ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

use crate::failure::Failure;

/// Shows `text` and ends the line.
pub(crate) fn say(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.as_ref().trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    say(serde_json::to_string_pretty(value).expect("what is shown as JSON has text for keys"))
}

/// On a terminal as wide as it is; elsewhere a row is one line, for grep and its like.
pub(crate) fn table<const COLUMNS: usize>(head: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(head.to_vec()).add_rows(rows.into_iter().map(Vec::from));
    let arrangement = if is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.set_content_arrangement(arrangement);
    table.trim_fmt()
}

pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
