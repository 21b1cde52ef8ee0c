//! Data on standard output, words on standard error, progress only on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Common;
use super::failure::Failure;

/// How a command speaks.
pub struct Output {
    /// Print JSON instead of tables and text.
    pub json: bool,
    quiet: bool,
}

impl Output {
    /// As the common options say.
    pub fn new(common: &Common) -> Self {
        Self { json: common.json, quiet: common.quiet }
    }

    /// Says nothing that it isn't asked for.
    #[cfg(test)]
    pub fn silent() -> Self {
        Self { json: true, quiet: true }
    }

    /// Prints one JSON value on a line of its own.
    pub fn json(&self, value: &serde_json::Value) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    /// Prints text to standard output.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(())
    }

    /// Prints a table whose columns named in `right` are numbers.
    pub fn table(&self, header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(header);
        for row in rows {
            table.add_row(row);
        }
        for index in right {
            if let Some(column) = table.column_mut(*index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.text(&table.to_string())
    }

    /// Says something on standard error, unless told to be quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("ottla: {text}");
        }
    }

    /// Says why the command ends.
    pub fn error(&self, failure: &Failure) {
        eprintln!("ottla: {failure}");
    }

    /// A progress bar over `total` records: on standard error, on a terminal only.
    pub fn progress(&self, what: &str, total: u64) -> ProgressBar {
        let style = "{msg:<8} [{bar:30}] {human_pos}/{human_len} records  {per_sec}  {eta} left";
        self.bar(what, total, style)
    }

    /// A progress bar over `total` bytes of a file.
    pub fn progress_bytes(&self, what: &str, total: u64) -> ProgressBar {
        self.bar(what, total, "{msg:<8} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
    }

    fn bar(&self, what: &str, total: u64, style: &str) -> ProgressBar {
        if self.quiet || self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        bar
    }
}

/// `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in MiB with one decimal.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A span in the unit that fits it.
pub fn span(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_spans_have_units() {
        assert_eq!((grouped(0), grouped(999), grouped(1_000_000)), ("0".into(), "999".into(), "1,000,000".into()));
        assert_eq!(span(Duration::from_micros(999)), "999 us");
        assert_eq!(span(Duration::from_micros(1_500)), "1.5 ms");
        assert_eq!(span(Duration::from_millis(2_500)), "2.50 s");
        assert_eq!(mib(1 << 20), "1.0 MiB");
    }
}
