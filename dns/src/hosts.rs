//! Names that the operator answers for on this machine, whoever else knows them: small, read once, and first to be asked.
//! It must not know bytes on the wire.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Names of one proxy.
const HOSTS_MAX: usize = 1000;

/// `NAME=ADDRESS`; a name may have one address of each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    address: IpAddr,
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{text:?}: {what}; write it like db.example=10.0.0.5");
        let (name, address) = text.split_once('=').ok_or_else(|| wrong("no address"))?;
        let address = address.trim().parse().map_err(|_| wrong("no IP address"))?;
        let name = name.trim().trim_end_matches('.').to_ascii_lowercase();
        let is_label = |label: &str| (1..=snapshot::limits::DNS_LABEL_BYTES_MAX).contains(&label.len());
        let is_name = name.len() <= 253 && name.is_ascii() && name.split('.').all(is_label);
        match is_name {
            true => Ok(Self { name, address }),
            false => Err(wrong("no DNS name")),
        }
    }
}

/// The addresses of a name.
pub(crate) type Addresses = (Option<Ipv4Addr>, Option<Ipv6Addr>);

#[derive(Debug, Default)]
pub(crate) struct Hosts(HashMap<String, Addresses>);

impl Hosts {
    pub(crate) fn new(given: &[Host]) -> Result<Self, String> {
        let mut hosts: HashMap<String, Addresses> = HashMap::new();
        for Host { name, address } in given {
            let (v4, v6) = hosts.entry(name.clone()).or_default();
            let is_second = match address {
                IpAddr::V4(address) => v4.replace(*address).is_some(),
                IpAddr::V6(address) => v6.replace(*address).is_some(),
            };
            if is_second {
                return Err(format!("DNS host {name} has two addresses of one family; one is answered"));
            }
        }
        if hosts.len() > HOSTS_MAX {
            return Err(format!("{} DNS hosts, at most {HOSTS_MAX}: use a resolver and --dns-upstream", hosts.len()));
        }
        Ok(Self(hosts))
    }

    pub(crate) fn find(&self, name: &str) -> Option<Addresses> {
        // Mostly there are none: nothing is hashed then.
        if self.0.is_empty() { None } else { self.0.get(name).copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_and_up_to_one_address_of_each_family() {
        let host = |text: &str| text.parse::<Host>();
        let given = ["DB.Example.=10.0.0.5", "db.example=fd00::5"].map(|text| host(text).unwrap());
        let hosts = Hosts::new(&given).unwrap();
        assert_eq!(hosts.find("db.example"), Some(("10.0.0.5".parse().ok(), "fd00::5".parse().ok())));
        assert_eq!(hosts.find("other.example"), None);
        for wrong in ["db", "=10.0.0.5", "a..b=10.0.0.5", "db=x", "wéb=10.0.0.5"] {
            assert!(host(wrong).unwrap_err().contains("db.example=10.0.0.5"), "{wrong}");
        }
        let twice = ["a=10.0.0.1", "a=10.0.0.2"].map(|text| host(text).unwrap());
        assert!(Hosts::new(&twice).unwrap_err().contains("two addresses"));
    }
}
