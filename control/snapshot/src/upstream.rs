//! A rule of DNS relaying: names below a domain are asked of a certain server. Only its form is known here.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

const DNS_PORT: u16 = 53;

/// `consul=10.0.0.53:8600`; without a domain every name that isn't the mesh's. Several of one domain are asked in turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsUpstream {
    /// Lower case, without dots at its ends; empty: every name.
    pub domain: String,
    pub server: SocketAddr,
}

impl FromStr for DnsUpstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, server) = text.trim().split_once('=').unwrap_or(("", text.trim()));
        let domain = domain.trim().trim_matches('.').to_ascii_lowercase();
        let labels_fit = domain.split('.').all(|l| (1..=crate::limits::DNS_LABEL_BYTES_MAX).contains(&l.len()));
        if !domain.is_empty() && (!labels_fit || domain.len() > crate::limits::DNS_NAME_BYTES_MAX) {
            return Err(format!("`{text}`: `{domain}` isn't a domain name"));
        }
        let server = server.trim();
        let address = server.parse::<SocketAddr>().ok();
        let address = address.or_else(|| Some(SocketAddr::new(server.parse::<IpAddr>().ok()?, DNS_PORT)));
        let server = address.ok_or_else(|| format!("`{text}`: write DOMAIN=ADDRESS[:PORT] or ADDRESS[:PORT]"))?;
        Ok(Self { domain, server })
    }
}

impl fmt::Display for DnsUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.domain.is_empty() { "" } else { "=" };
        write!(f, "{}{equals}{}", self.domain, self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written_alike() {
        for (text, expected) in [
            ("consul=10.0.0.53:8600", "consul=10.0.0.53:8600"),
            (" .Corp.Example. = 10.0.0.53 ", "corp.example=10.0.0.53:53"),
            ("10.in-addr.arpa=[2001:db8::1]:5353", "10.in-addr.arpa=[2001:db8::1]:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
        ] {
            let rule: DnsUpstream = text.parse().unwrap();
            assert_eq!(rule.to_string(), expected);
            assert_eq!(expected.parse(), Ok(rule));
        }
        for wrong in ["", "consul", "consul=", "a..b=10.0.0.1", "consul=dns.example:53", "=10.0.0.1:x"] {
            assert!(wrong.parse::<DnsUpstream>().unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
