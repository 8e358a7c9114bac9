//! Which connections to what the mesh doesn't know may go on: a function of rows and of what a connection says of itself.
//!
//! Among rows the first of this order speaks for a connection: by class TLS (by SNI), bytes (by address), HTTP (by Host); within a
//! class a row for the connection's port before one for any port; then one address before a block, a longer block before a shorter
//! one, these before names, a name before a wildcard, a longer wildcard before a shorter one; then by the rows' order.

use crate::tables::{PassthroughProtocol, PassthroughRow, PassthroughTo};
use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

/// What a connection has said, as far as it was listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says<'a> {
    Nothing,
    /// A ClientHello, with its name if it has one.
    Tls(Option<&'a str>),
    /// A request's host, lower case, without port.
    Http(&'a str),
}

/// How specific a row is: more is greater.
type Rank = (bool, u8, u8, Reverse<usize>);

/// The row that lets the connection pass.
pub fn admitted<'a>(rows: &'a [PassthroughRow], to: SocketAddr, says: Says<'_>) -> Option<&'a PassthroughRow> {
    let class = |row: &PassthroughRow| match (row.protocol, says) {
        (PassthroughProtocol::Tls, Says::Tls(_)) => Some(2),
        (PassthroughProtocol::Bytes, _) => Some(1),
        (PassthroughProtocol::Http | PassthroughProtocol::Http2, Says::Http(_)) => Some(0),
        _ => None,
    };
    let name = match says {
        Says::Tls(name) => name,
        Says::Http(host) => Some(host),
        Says::Nothing => None,
    };
    let ranked = rows.iter().enumerate().filter_map(|(index, row)| {
        let port = is_port(row, to.port())?;
        let (kind, length) = rank_of_target(&row.to, to.ip(), name)?;
        let rank: (u8, Rank) = (class(row)?, (port, kind, length, Reverse(index)));
        Some((rank, row))
    });
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, row)| row)
}

/// Protocols that rows would let pass to this address if the connection says the right thing.
pub fn wanted(rows: &[PassthroughRow], to: SocketAddr) -> impl Iterator<Item = PassthroughProtocol> {
    let is_possible = move |row: &&PassthroughRow| {
        let is_name = matches!(row.to, PassthroughTo::Name(_));
        is_port(row, to.port()).is_some() && (is_name || rank_of_target(&row.to, to.ip(), None).is_some())
    };
    rows.iter().filter(is_possible).map(|row| row.protocol)
}

/// Whether the row names the port, if it is for it.
fn is_port(row: &PassthroughRow, port: u16) -> Option<bool> {
    match row.port {
        None => Some(false),
        Some(own) => (own == port).then_some(true),
    }
}

fn rank_of_target(to: &PassthroughTo, ip: IpAddr, name: Option<&str>) -> Option<(u8, u8)> {
    match to {
        PassthroughTo::Block { address, prefix_bits } => {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let kind = if *prefix_bits == whole { 3 } else { 2 };
            is_in(ip, *address, *prefix_bits).then_some((kind, *prefix_bits))
        }
        PassthroughTo::Name(pattern) => {
            let name = name?;
            let length = u8::try_from(pattern.len()).unwrap_or(u8::MAX);
            match pattern.strip_prefix('*') {
                None => (pattern == name).then_some((1, length)),
                Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some((0, length)),
            }
        }
    }
}

/// Whether `ip` is in the block of addresses that begin with the first `bits` of `block`.
pub fn is_in(ip: IpAddr, block: IpAddr, bits: u8) -> bool {
    let differing = match (block, ip) {
        (IpAddr::V4(block), IpAddr::V4(ip)) => u128::from(u32::from(block) ^ u32::from(ip)) << 96,
        (IpAddr::V6(block), IpAddr::V6(ip)) => u128::from(block) ^ u128::from(ip),
        _ => return false,
    };
    differing.leading_zeros() >= bits.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Origin;
    use PassthroughProtocol::{Bytes, Http, Http2, Tls};

    fn row(to: &str, port: impl Into<Option<u16>>, protocol: PassthroughProtocol) -> PassthroughRow {
        let block = |text: &str, bits: Option<u8>| {
            let address: IpAddr = text.parse().ok()?;
            Some(PassthroughTo::Block {
                address,
                prefix_bits: bits.unwrap_or(if address.is_ipv4() { 32 } else { 128 }),
            })
        };
        let block = match to.split_once('/') {
            Some((address, bits)) => block(address, bits.parse().ok()),
            None => block(to, None),
        };
        let to = block.unwrap_or_else(|| PassthroughTo::Name(to.into()));
        PassthroughRow { to, port: port.into(), protocol, origin: Origin::default() }
    }

    fn first(rows: &[PassthroughRow], to: &str, says: Says<'_>) -> Option<usize> {
        let found = admitted(rows, to.parse().unwrap(), says)?;
        rows.iter().position(|row| std::ptr::eq(row, found))
    }

    #[test]
    fn tls_goes_before_bytes_and_bytes_before_http() {
        let rows = [row("9.9.9.9", None, Http), row("9.9.9.9", None, Bytes), row("9.9.9.9", None, Tls)];
        assert_eq!(first(&rows, "9.9.9.9:443", Says::Tls(None)), Some(2));
        assert_eq!(first(&rows, "9.9.9.9:80", Says::Http("x")), Some(1));
        assert_eq!(first(&rows, "9.9.9.9:80", Says::Nothing), Some(1));
        assert_eq!(first(&rows[..1], "9.9.9.9:80", Says::Http("x")), Some(0));
        assert_eq!(first(&rows[..1], "9.9.9.9:80", Says::Nothing), None, "no HTTP, no pass");
        assert_eq!(first(&rows[2..], "9.9.9.9:80", Says::Http("x")), None, "no TLS, no pass");
    }

    #[test]
    fn a_port_goes_before_any_port_then_an_address_before_blocks_and_these_before_names() {
        let rows = [
            row("*.example.com", None, Tls),
            row("*.a.example.com", None, Tls),
            row("x.a.example.com", None, Tls),
            row("9.0.0.0/8", None, Tls),
            row("9.9.0.0/16", None, Tls),
            row("9.9.9.9", None, Tls),
            row("*.example.com", 443, Tls),
        ];
        let says = Says::Tls(Some("x.a.example.com"));
        let mut left = rows.to_vec();
        let mut order = Vec::new();
        while let Some(index) = first(&left, "9.9.9.9:443", says) {
            order.push(rows.iter().position(|row| *row == left[index]).unwrap());
            left.remove(index);
        }
        assert_eq!(order, [6, 5, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn names_are_compared_by_sni_and_host_and_wildcards_need_a_label() {
        let rows = [row("*.example.com", None, Tls), row("api.example.com", 80, Http2)];
        assert_eq!(first(&rows, "1.1.1.1:443", Says::Tls(Some("a.b.example.com"))), Some(0));
        for name in [Some("example.com"), Some(".example.com"), Some("badexample.com"), None] {
            assert_eq!(first(&rows, "1.1.1.1:443", Says::Tls(name)), None, "{name:?}");
        }
        assert_eq!(first(&rows, "1.1.1.1:80", Says::Http("api.example.com")), Some(1));
        assert_eq!(first(&rows, "1.1.1.1:81", Says::Http("api.example.com")), None);
    }

    #[test]
    fn families_are_apart_and_equal_rows_go_by_their_order() {
        let rows = [row("::ffff:0:0/96", None, Bytes), row("fd00::/8", None, Bytes), row("fd00::/8", None, Bytes)];
        assert_eq!(first(&rows, "9.9.9.9:1", Says::Nothing), None);
        assert_eq!(first(&rows, "[fd00::9]:1", Says::Nothing), Some(1));
    }

    #[test]
    fn what_is_wanted_tells_whether_listening_is_worth_it() {
        let rows = [row("*.example.com", 443, Tls), row("9.9.9.9", None, Bytes), row("10.0.0.0/8", None, Http)];
        let wanted = |to: &str| wanted(&rows, to.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(wanted("9.9.9.9:443"), [Tls, Bytes]);
        assert_eq!(wanted("10.1.1.1:80"), [Http]);
        assert_eq!(wanted("8.8.8.8:80"), []);
    }
}
