//! Names of destinations: the SNI in both spellings and the short names of service rows. Pure text; it knows no
//! resource and no table.
//!
//! Between our own proxies the resource form is sent, because it is a DNS name that any TLS stack accepts:
//! `a<hash>.<name>.<port>.<mesh>.<kind>`. For a plain `kuma.io/service` destination the name is the service, the port is
//! always 0 (a service tag names no port), the kind is `svc`, and every further tag is part of the hashed extra. What
//! isn't allowed in a DNS label is shown as `-`; the hash covers the names as they were written, so nothing collides.

use crate::resource::Tags;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

pub(super) const SERVICE: &str = "kuma.io/service";
pub(super) const MESH: &str = "kuma.io/mesh";
pub(super) const ZONE: &str = "kuma.io/zone";
pub(super) const PROTOCOL: &str = "kuma.io/protocol";
/// Kind of a destination that is tags, not a resource.
const TAGS_KIND: &str = "svc";
/// Longest name shown in full; a longer one ends in `x`.
const SHOWN_BYTES_MAX: usize = 62;

/// The SNI that our proxies send for `tags` of `mesh`.
pub(super) fn of_tags(mesh: &str, tags: &Tags) -> String {
    let extra: Vec<String> = further(tags).map(|(k, v)| format!("{k}={v}")).collect();
    of_resource(&Named { name: service(tags), mesh, port: 0, kind: TAGS_KIND }, &extra.join(","))
}

/// `backend{mesh=default,version=v1}`, lower case as SNI is compared without case.
pub(super) fn legacy(mesh: &str, tags: &Tags) -> String {
    let mut all: Tags = further(tags).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    all.insert("mesh".into(), mesh.into());
    let list: Vec<String> = all.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{}{{{}}}", service(tags), list.join(",")).to_lowercase()
}

pub(super) struct Named<'a> {
    pub name: &'a str,
    pub mesh: &'a str,
    pub port: u16,
    pub kind: &'a str,
}

/// `extra`: sorted `k=v`, joined by commas.
pub(super) fn of_resource(named: &Named<'_>, extra: &str) -> String {
    let hash = fnv1a(&format!("{};{};{extra}", named.name, named.mesh));
    format!("a{hash:016x}.{}.{}.{}.{}", label(named.name), named.port, label(named.mesh), named.kind)
}

/// `backend`, `backend-<16 hex>` with further tags, and `_<mesh>` at the end for another mesh's.
pub(super) fn row_name(tags: &Tags) -> String {
    let mut name = service(tags).to_owned();
    if further(tags).next().is_some() {
        let mut digest = Sha256::new();
        for (key, value) in tags.iter().filter(|(k, _)| *k != MESH) {
            digest.update(key);
            digest.update(value);
        }
        name.push('-');
        for byte in digest.finalize().iter().take(8) {
            let _ = write!(name, "{byte:02x}");
        }
    }
    if let Some(mesh) = tags.get(MESH) {
        let _ = write!(name, "_{mesh}");
    }
    name
}

/// The row of a zone proxy, which serves all meshes.
pub(super) fn zone_row_name(mesh: &str, tags: &Tags) -> String {
    let own: Tags = tags.iter().filter(|(k, _)| *k != MESH).map(|(k, v)| (k.clone(), v.clone())).collect();
    format!("{mesh}:{}", row_name(&own))
}

pub(super) fn service(tags: &Tags) -> &str {
    tags.get(SERVICE).map_or("", String::as_str)
}

fn further(tags: &Tags) -> impl Iterator<Item = (&str, &str)> {
    tags.iter().filter(|(k, _)| *k != SERVICE && *k != MESH).map(|(k, v)| (k.as_str(), v.as_str()))
}

fn label(name: &str) -> String {
    let mut shown: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' })
        .take(SHOWN_BYTES_MAX)
        .collect();
    if name.chars().count() > SHOWN_BYTES_MAX {
        shown.push('x');
    }
    if shown.is_empty() || shown.starts_with('-') {
        shown.replace_range(..shown.len().min(1), "x");
    }
    if shown.ends_with('-') {
        shown.pop();
        shown.push('x');
    }
    shown
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(list: &[(&str, &str)]) -> Tags {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn resource_form_equals_kumas_vectors() {
        let a62 = "a".repeat(62);
        let b62 = "b".repeat(62);
        let a63 = "a".repeat(63);
        let long_a = format!("{a62}-qwe");
        let long_b = format!("{b62}-qwe");
        let long = format!("a5b91d8a08567bf09.{a62}x.8080.{b62}x.ms");
        let just_over = format!("a11ccd33a27dc8e71.{a62}x.1.default.ms");
        let rows = [
            ("backend", "demo", 8080, "ms", "", "ae10a8071b8a8eeb8.backend.8080.demo.ms"),
            ("backend", "demo", 8080, "ms", "x=a", "a333a125865a97632.backend.8080.demo.ms"),
            ("backend", "demo", 8080, "mzms", "", "ae10a8071b8a8eeb8.backend.8080.demo.mzms"),
            (long_a.as_str(), long_b.as_str(), 8080, "ms", "x=a", long.as_str()),
            (
                "meshexternalservice-1",
                "mesh-1",
                9090,
                "mes",
                "",
                "a45e197ed7825551b.meshexternalservice-1.9090.mesh-1.mes",
            ),
            ("httpbin", "default", 80, "mes", "", "a260442408b1a89a9.httpbin.80.default.mes"),
            ("redis", "default", 6379, "ms", "", "a25502fde077cd057.redis.6379.default.ms"),
            ("svc", "default", 80, "ms", "env=prod,version=v1", "a493fbed8ddd98777.svc.80.default.ms"),
            (a63.as_str(), "default", 1, "ms", "", just_over.as_str()),
        ];
        for (name, mesh, port, kind, extra, expected) in rows {
            assert_eq!(of_resource(&Named { name, mesh, port, kind }, extra), expected);
        }
    }

    #[test]
    fn legacy_form_sorts_tags_and_carries_the_mesh() {
        assert_eq!(legacy("default", &tags(&[(SERVICE, "backend")])), "backend{mesh=default}");
        assert_eq!(
            legacy("default", &tags(&[(SERVICE, "Backend"), ("version", "V1")])),
            "backend{mesh=default,version=v1}"
        );
        assert_eq!(legacy("b", &tags(&[(SERVICE, "gw"), (MESH, "b")])), "gw{mesh=b}");
    }

    #[test]
    fn every_service_name_becomes_a_dns_name() {
        for name in ["web", "demo-app_kuma-demo_svc_5000", "a/b:c.d", "-x-", "", "Ünï", &"z".repeat(300)] {
            let sni = of_tags("default", &tags(&[(SERVICE, name)]));
            assert!(rustls::pki_types::DnsName::try_from(sni.clone()).is_ok(), "{sni}");
        }
        assert_ne!(of_tags("m", &tags(&[(SERVICE, "a.b")])), of_tags("m", &tags(&[(SERVICE, "a-b")])));
    }

    #[test]
    fn row_names_are_kumas_cluster_names() {
        assert_eq!(row_name(&tags(&[(SERVICE, "backend")])), "backend");
        assert_eq!(row_name(&tags(&[(SERVICE, "backend"), ("version", "v1")])), "backend-154693772bc47249");
        assert_eq!(row_name(&tags(&[(SERVICE, "gw"), (MESH, "other")])), "gw_other");
        assert_eq!(zone_row_name("m", &tags(&[(SERVICE, "gw"), (MESH, "m")])), "m:gw");
    }

    #[test]
    fn subsets_of_one_service_do_not_collide() {
        let all: std::collections::BTreeSet<_> =
            (0..100_000).map(|i| of_tags("default", &tags(&[(SERVICE, "s"), ("version", &i.to_string())]))).collect();
        assert_eq!(all.len(), 100_000);
    }
}
