//! Ports, uids, address blocks and container networks as the flags spell them. Must not know nftables.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    pub(super) const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub(super) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// The same ports as the kernel lists them: sorted, neighbours joined.
pub(super) fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| (range.first, range.last));
    let mut merged: Vec<PortRange> = Vec::new();
    for range in sorted {
        match merged.last_mut().filter(|last| range.first <= last.last.saturating_add(1)) {
            Some(last) => last.last = last.last.max(range.last),
            None => merged.push(range),
        }
    }
    merged
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = range(text, "port")?;
        if first == 0 {
            return Err(format!("port range {text:?} begins below 1"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl FromStr for Protocol {
    type Err = String;

    /// By name, or by number as listings have it.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" | "6" => Ok(Self::Tcp),
            "udp" | "17" => Ok(Self::Udp),
            other => Err(format!("protocol {other:?} is neither tcp nor udp")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// `[protocol:][ports:]uids`: connections of these users to these ports aren't captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UidExclusion {
    pub(super) protocols: &'static [Protocol],
    /// Empty = all.
    pub(super) ports: Vec<PortRange>,
    /// First and last.
    pub(super) uids: (u32, u32),
}

impl FromStr for UidExclusion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (protocol, ports, uids) = match parts.as_slice() {
            [uids] => ("*", "*", *uids),
            [ports, uids] => ("*", *ports, *uids),
            [protocol, ports, uids] => (*protocol, *ports, *uids),
            _ => {
                return Err(format!(
                    "invalid format for excluding ports by UIDs: {text:?}, expected [protocol:][ports:]uids"
                ));
            }
        };
        let protocols: &[Protocol] = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => &[Protocol::Tcp],
            "udp" => &[Protocol::Udp],
            "*" | "" => &[Protocol::Tcp, Protocol::Udp],
            other => return Err(format!("protocol {other:?} is invalid or unsupported, use tcp, udp or *")),
        };
        let ports = match ports {
            "*" | "" => Vec::new(),
            list => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        };
        if uids == "*" {
            return Err("wildcard '*' is not allowed for UIDs".to_owned());
        }
        if uids.contains(',') {
            return Err(format!("list of UIDs {uids:?} is not supported, repeat the flag"));
        }
        Ok(Self { protocols, ports, uids: range(uids, "UID")? })
    }
}

/// `interface:CIDR`: a container network on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vnet {
    pub(super) interface: String,
    pub(super) network: Block,
}

impl FromStr for Vnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("invalid virtual network {text:?}, expected interface:CIDR like docker0:172.17.0.0/16");
        let (interface, network) = text.split_once(':').ok_or_else(wrong)?;
        // The name is written between quotes into the rules (IFNAMSIZ is 16).
        let is_name = |name: &str| {
            (1..16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-@+*".contains(&b))
        };
        if !is_name(interface) {
            return Err(wrong());
        }
        Ok(Self { interface: interface.to_owned(), network: network.parse().map_err(|_| wrong())? })
    }
}

/// An address or CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    address: IpAddr,
    prefix_bits: u8,
}

impl Block {
    pub(super) fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        snapshot::lookup::passthrough::is_in(address, self.address, self.prefix_bits)
    }

    pub(super) fn parts(&self) -> (IpAddr, u8) {
        (self.address, self.prefix_bits)
    }
}

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Self {
        Self { address, prefix_bits: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither an IP address nor a CIDR");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if prefix_bits > most {
            return Err(wrong());
        }
        // As nftables keeps it: without the bits behind the prefix.
        let kept = |bits: u32| bits.saturating_sub(u32::from(prefix_bits));
        let address = match address {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(kept(32)).unwrap_or(0)).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(kept(128)).unwrap_or(0)).into()),
        };
        Ok(Self { address, prefix_bits })
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.is_ipv4() { 32 } else { 128 };
        match self.prefix_bits == whole {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.prefix_bits),
        }
    }
}

/// A port to send connections to.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let number = text.trim().parse().ok().filter(|port| *port != 0);
    number.ok_or_else(|| format!("{text:?} is no port; choose from 1 to 65535"))
}

pub(super) fn range<N: FromStr + PartialOrd + Copy>(text: &str, what: &str) -> Result<(N, N), String> {
    let number = |part: &str| part.trim().parse::<N>().map_err(|_| format!("{what} {part:?} is no valid number"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{what} range {text:?} is reversed"));
    }
    Ok((first, last))
}
