//! Lines of bounded length: MCP over standard input is one JSON message a line.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// As much as MCP libraries take over standard input.
const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// It was passed over to its end.
    TooLong,
}

/// Reads lines; a call that is dropped halfway loses nothing.
pub(super) struct Lines<R> {
    input: R,
    begun: Vec<u8>,
    too_long: bool,
    max_bytes: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, begun: Vec::new(), too_long: false, max_bytes: LINE_MAX_BYTES }
    }

    /// The next line that holds anything; `None` at the end of the input, also when reading fails.
    pub(super) async fn next(&mut self) -> Option<Line> {
        loop {
            let ready = match self.input.fill_buf().await {
                Ok([]) => {
                    let last = self.finish();
                    return last;
                }
                Ok(ready) => ready,
                Err(error) => {
                    tracing::warn!(%error, "cannot read standard input");
                    return None;
                }
            };
            let (part, ended) = match ready.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&ready[..end], true),
                None => (ready, false),
            };
            if self.begun.len() + part.len() > self.max_bytes {
                self.too_long = true;
                self.begun = Vec::new();
            }
            if !self.too_long {
                self.begun.extend_from_slice(part);
            }
            let used = part.len() + usize::from(ended);
            self.input.consume(used);
            if ended && let Some(line) = self.finish() {
                return Some(line);
            }
        }
    }

    fn finish(&mut self) -> Option<Line> {
        if std::mem::take(&mut self.too_long) {
            return Some(Line::TooLong);
        }
        // What is no UTF-8 is no JSON; the reader of messages says so.
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.begun)).trim().to_owned();
        (!text.is_empty()).then_some(Line::Text(text))
    }
}

/// A message as the hall sent it, on one line: line ends stand in JSON only between its parts.
pub(super) fn one_line(text: String) -> String {
    if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(input: &[u8], max_bytes: usize) -> Vec<Line> {
        let mut lines = Lines { max_bytes, ..Lines::new(input) };
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_and_the_next_one_is_read() {
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(all(b"abc\r\n\n  \ndefgh\nij", 4).await, [text("abc"), Line::TooLong, text("ij")]);
        assert_eq!(all(b"abcdefgh", 4).await, [Line::TooLong]);
    }

    #[test]
    fn a_message_of_many_lines_becomes_one() {
        assert_eq!(one_line("{\n  \"a\": 1\n}".into()), "{   \"a\": 1 }");
    }
}
