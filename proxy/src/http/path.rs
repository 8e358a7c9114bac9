//! One spelling for a path before it is matched: what a route sees is what is forwarded. Must not know routes.
//!
//! Everywhere: escapes of unreserved characters are decoded and dot segments resolved (RFC 3986 §6.2.2); `%00` is
//! refused. At the edge besides: `\` is `/`, runs of slashes are one, and a path with an escaped slash or backslash is
//! answered by a redirect to its unescaped spelling. Sidecars leave those alone: behind them is the application's own
//! client, whose spelling is a matter between it and the server.

use super::fault::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Forward and match as it came.
    AsSent,
    /// Forward and match what was written to the output.
    Rewritten,
    /// Redirect (307) to what was written to the output.
    Redirect,
}

/// Normalises `path`; the result is in `out` unless it is `AsSent`.
pub fn normalise(path: &[u8], edge: bool, out: &mut Vec<u8>) -> Result<Spelling, Fault> {
    if !needs_work(path, edge) {
        return Ok(Spelling::AsSent);
    }
    out.clear();
    let redirect = decode(path, edge, out)?;
    if edge {
        out.dedup_by(|next, last| *next == b'/' && *last == b'/');
    }
    resolve_dots(out);
    Ok(match redirect {
        true => Spelling::Redirect,
        false if out == path => Spelling::AsSent,
        false => Spelling::Rewritten,
    })
}

fn needs_work(path: &[u8], edge: bool) -> bool {
    let mut last = 0;
    path.iter().any(|byte| {
        let hit = match byte {
            b'%' => true,
            b'.' => last == b'/',
            b'\\' => edge,
            b'/' => edge && last == b'/',
            _ => false,
        };
        last = *byte;
        hit
    })
}

/// Decodes escapes into `out`; true if a slash or backslash was escaped.
fn decode(path: &[u8], edge: bool, out: &mut Vec<u8>) -> Result<bool, Fault> {
    let mut redirect = false;
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, escape(byte, tail)) {
            (_, Some(0)) => return Err(Fault::Target),
            (_, Some(b'/' | b'\\')) if edge => {
                redirect = true;
                out.push(b'/');
            }
            (_, Some(decoded)) if is_unreserved(decoded) => out.push(decoded),
            (b'\\', _) if edge => {
                out.push(b'/');
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        }
        rest = tail.get(2..).unwrap_or_default();
    }
    Ok(redirect)
}

fn escape(byte: u8, tail: &[u8]) -> Option<u8> {
    if byte != b'%' {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (high, low) = (digit(tail.first()?)?, digit(tail.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §5.2.4, in place: the result is never longer than what was read.
fn resolve_dots(path: &mut Vec<u8>) {
    let mut kept = 0;
    let mut read = 0;
    while read < path.len() {
        // `read` is at a slash: a path starts with one and each round ends at the next.
        let rest = path.get(read + 1..).unwrap_or_default();
        let len = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let last = len == rest.len();
        match rest.get(..len) {
            Some(b"." | b"..") => {
                if len == 2 {
                    let before = path.get(..kept).unwrap_or_default();
                    kept = before.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                }
                if last && let Some(slot) = path.get_mut(kept) {
                    *slot = b'/';
                    kept += 1;
                }
            }
            _ => {
                path.copy_within(read..read + 1 + len, kept);
                kept += 1 + len;
            }
        }
        read += 1 + len;
    }
    path.truncate(kept);
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
