//! Writing for people and scripts: results on stdout, diagnostics on stderr. A reader that went away (`weir get … | head`)
//! is no failure and never a panic.

use crate::failure::Failure;
use std::io::{ErrorKind, IsTerminal, Write};

/// Results, as they are.
pub(crate) fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(format!("writing to stdout: {e}"))),
        _ => Ok(()),
    }
}

/// One diagnostic.
pub(crate) fn note(text: &str) {
    // There is nowhere left to say that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether stderr may be coloured (<https://no-color.org>).
pub(crate) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal()
}
