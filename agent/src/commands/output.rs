//! Where commands print to.
//!
//! In: finished lines. Out: stdout, flushed where someone waits for it. A broken pipe is an error here, and success in `commands`.

use std::io::{self, IsTerminal, Write};

/// Standard output, and what it can show.
pub(super) struct Output {
    writer: io::BufWriter<io::Stdout>,
    /// Whether to use colours: a terminal, and `NO_COLOR` is not set (<https://no-color.org>).
    pub colour: bool,
}

impl Output {
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = stdout.is_terminal() && !is_unwanted;
        Self { writer: io::BufWriter::new(stdout), colour }
    }

    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.writer.write_all(line.as_bytes())?;
        self.writer.write_all(b"\n")
    }

    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())
    }

    /// To be called before every wait and at the end: an error at exit would be silent.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
