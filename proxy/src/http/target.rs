//! Whom a request is for: the forms of the request target and the Host header, checked, and brought to one spelling
//! for matching. Must not know routes.

use super::fault::Fault;
use super::head::{Head, Known, Version, host_len};

/// What the request target and Host say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// As it is forwarded: `host[:port]`; empty for HTTP/1.0 without Host.
    pub authority: &'a [u8],
    /// The authority without its port.
    pub host: &'a [u8],
    /// Starts with `/`, or is `*`. As sent.
    pub path: &'a [u8],
    /// Without the question mark.
    pub query: Option<&'a [u8]>,
}

/// Reads target and Host of a parsed request.
pub fn target<'a>(head: &'a Head, buffer: &'a [u8]) -> Result<Target<'a>, Fault> {
    let (authority, host) = host_header(head, buffer)?;
    if head.method.of(buffer) == b"CONNECT" {
        return Err(Fault::ConnectMethod);
    }
    let raw = head.target.of(buffer);
    if raw.first() == Some(&b'/') {
        let (path, query) = split_query(raw);
        return Ok(Target { authority, host, path, query });
    }
    if raw == b"*" && head.method.of(buffer) == b"OPTIONS" {
        return Ok(Target { authority, host, path: raw, query: None });
    }
    let rest = strip_scheme(raw).ok_or(Fault::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at_checked(end).ok_or(Fault::Target)?;
    let (host, _) = split_host(authority).ok_or(Fault::Target)?;
    let (path, query) = split_query(tail);
    let path = if path.is_empty() { b"/" } else { path };
    Ok(Target { authority, host, path, query })
}

/// Exactly one valid Host, with and without its port; HTTP/1.0 may leave it out.
fn host_header<'a>(head: &'a Head, buffer: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let mut hosts = head.values(buffer, Known::Host);
    match (hosts.next(), hosts.next()) {
        (Some(authority), None) => split_host(authority).map(|(host, _)| (authority, host)).ok_or(Fault::Host),
        (None, _) if head.version == Version::Http10 => Ok((b"", b"")),
        _ => Err(Fault::Host),
    }
}

fn strip_scheme(raw: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (start, rest) = raw.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn split_query(raw: &[u8]) -> (&[u8], Option<&[u8]>) {
    match raw.iter().position(|byte| *byte == b'?') {
        Some(at) => (raw.get(..at).unwrap_or_default(), raw.get(at + 1..)),
        None => (raw, None),
    }
}

/// Splits `host[:port]` and checks both; None if it is anything else (userinfo, comma, path, spaces, non-digits).
pub fn split_host(authority: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (host, rest) = if authority.first() == Some(&b'[') {
        let close = authority.iter().position(|byte| *byte == b']')?;
        let (literal, rest) = authority.split_at_checked(close + 1)?;
        let inner = std::str::from_utf8(literal.get(1..close)?).ok()?;
        inner.parse::<std::net::Ipv6Addr>().ok()?;
        (literal, rest)
    } else {
        let (name, rest) = authority.split_at_checked(host_len(authority))?;
        if name.is_empty() || name.len() > 255 || name.first() == Some(&b'.') {
            return None;
        }
        (name, rest)
    };
    let port = match rest {
        [] | [b':'] => None,
        [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
            let port = digits.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
            Some(u16::try_from(port).ok()?)
        }
        _ => return None,
    };
    Some((host, port))
}

/// The spelling that a host (without port) is matched by: lower case, without the final dot.
pub fn matching_host(host: &[u8], out: &mut String) {
    out.clear();
    let host = host.strip_suffix(b".").unwrap_or(host);
    out.push_str(std::str::from_utf8(host).unwrap_or_default());
    out.make_ascii_lowercase();
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
