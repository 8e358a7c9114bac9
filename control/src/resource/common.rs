//! Checks that several kinds share: tags, selectors, addresses, host names, ports, data sources. Messages are Kuma's.

use super::decode::{Cursor, Fields, Spot};
use super::{DataSource, Matcher, Tags};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

pub(super) const SERVICE: &str = "kuma.io/service";
pub(super) const PROTOCOL: &str = "kuma.io/protocol";
pub(super) const PORT_MESSAGE: &str = "port must be in the range [1, 65535]";
pub(super) const EMPTY: &str = "cannot be empty";
const ONE_TAG: &str = "must have at least one tag";
const ONE_ELEMENT: &str = "must have at least one element";
const PROTOCOLS: [&str; 5] = ["grpc", "http", "http2", "kafka", "tcp"];

pub(super) fn missing_tag(tag: &str) -> String {
    format!("mandatory tag \"{tag}\" is missing")
}

fn only(text: &str, extra: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

pub(super) fn is_tag_name(name: &str) -> bool {
    !name.is_empty() && only(name, ".-_:/")
}

fn is_selector_value(value: &str) -> bool {
    value == "*" || only(value, ".-_:/")
}

fn tag_name(name: &str, spot: &Spot<'_>) {
    if name.is_empty() {
        spot.error("tag name must be non-empty");
    } else if !is_tag_name(name) {
        spot.error("tag name must consist of alphanumeric characters, dots, dashes, slashes and underscores");
    }
}

pub(super) fn protocol(value: &str, spot: &Spot<'_>) {
    // tls and mysql are understood, as in Kuma, and not advertised.
    if !PROTOCOLS.iter().chain(&["tls", "mysql"]).any(|p| p.eq_ignore_ascii_case(value)) {
        let allowed = PROTOCOLS.join(", ");
        spot.error(format!("tag \"{PROTOCOL}\" has an invalid value \"{value}\". Allowed values: {allowed}"));
    }
}

fn each_tag(cursor: &Cursor<'_>, check: impl Fn(&str, &str, &Spot<'_>)) -> Tags {
    let mut tags = Tags::new();
    // What is wrong is told by key, as Kuma walks maps.
    let mut entries = cursor.entries();
    entries.sort_by_key(|(key, _)| *key);
    for (key, value) in entries {
        if let Some(text) = value.text_or_source() {
            check(key, &text, &value.spot);
            tags.insert(key.to_owned(), text);
        }
    }
    tags
}

/// Tags that a proxy or service has.
pub(super) fn own_tags(cursor: &Cursor<'_>) -> Tags {
    each_tag(cursor, |key, value, spot| {
        tag_name(key, spot);
        if value.is_empty() {
            spot.error("tag value must be non-empty");
        } else if !only(value, ".-_:") {
            spot.error("tag value must consist of alphanumeric characters, dots, dashes and underscores");
        } else if key == PROTOCOL {
            protocol(value, spot);
        }
    })
}

/// Tags that select: of a selector or a destination. `*` is any value.
pub(super) fn matching_tags(cursor: &Cursor<'_>) -> Tags {
    each_tag(cursor, |key, value, spot| {
        tag_name(key, spot);
        if value.is_empty() {
            spot.error("tag value must be non-empty");
        } else if !is_selector_value(value) {
            spot.error(
                "tag value must consist of alphanumeric characters, dots, dashes, slashes and underscores or be \"*\"",
            );
        }
    })
}

/// Tags of a listener, which must not take the place of those that Kuma gives.
pub(super) fn listener_tags(cursor: &Cursor<'_>) -> Tags {
    const RESERVED: [&str; 4] = [SERVICE, PROTOCOL, "kuma.io/zone", "kuma.io/external-service-name"];
    let tags = matching_tags(cursor);
    for (key, value) in cursor.entries() {
        if RESERVED.contains(&key) {
            value.spot.error(format!("tag name must not be \"{key}\""));
        }
    }
    tags
}

/// `name[].match`: at least one, each with a tag.
pub(super) fn selectors(fields: &mut Fields<'_>, name: &'static str, needs_service: bool) -> Vec<Matcher> {
    let items = fields.get(name).map(|c| c.items());
    if items.as_ref().is_none_or(Vec::is_empty) {
        fields.spot(name).error(ONE_ELEMENT);
    }
    let mut all = Vec::new();
    for item in items.unwrap_or_default() {
        let Some(mut f) = item.fields() else { continue };
        let tags = f.get("match").map(|c| matching_tags(&c)).unwrap_or_default();
        if tags.is_empty() {
            f.spot("match").error(ONE_TAG);
        }
        if needs_service && !tags.contains_key(SERVICE) {
            f.spot("match").error(missing_tag(SERVICE));
        }
        f.done();
        all.push(tags);
    }
    all
}

pub(super) fn port(cursor: &Cursor<'_>) -> Option<u16> {
    cursor.in_range(1..=65535, PORT_MESSAGE)
}

/// A port that must be there.
pub(super) fn required_port(fields: &mut Fields<'_>, name: &'static str) -> u16 {
    match fields.get(name) {
        Some(cursor) => port(&cursor).unwrap_or_default(),
        None => {
            fields.spot(name).error(PORT_MESSAGE);
            0
        }
    }
}

/// A port that may be absent; 0 counts as absent.
pub(super) fn optional_port(fields: &mut Fields<'_>, name: &'static str) -> Option<u16> {
    fields.get(name)?.in_range(0..=65535, PORT_MESSAGE).filter(|port| *port != 0)
}

pub(super) fn ip(fields: &mut Fields<'_>, name: &'static str) -> Option<std::net::IpAddr> {
    let cursor = fields.get(name)?;
    let text = cursor.text().filter(|t| !t.is_empty())?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        cursor.spot.error(format!("{name} has to be valid IP address"));
    }
    parsed
}

/// An IP address or a DNS name, not the unspecified address.
pub(super) fn address(text: &str, spot: &Spot<'_>) {
    match text.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_unspecified() => spot.error("must not be 0.0.0.0 or ::"),
        Ok(_) => {}
        Err(_) if is_dns_name(text) => {}
        Err(_) => spot.error("address has to be valid IP address or domain name"),
    }
}

pub(super) fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix(['.', '_']).unwrap_or(text);
    let label = |l: &str| (1..=63).contains(&l.len()) && !l.starts_with('-') && only(l, "-_");
    text.len() <= 253 && name.split('.').all(label)
}

/// A host name of a listener or route: exact, `*` or `*.suffix`, lower case.
pub(super) fn hostname(text: &str, spot: &Spot<'_>) {
    let label = |l: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        l.len() <= 63 && l.starts_with(inner) && l.ends_with(inner) && l.chars().all(|c| inner(c) || c == '-')
    };
    if text.len() > 253 {
        spot.error("must be at most 253 characters");
    } else if text.starts_with('*') {
        let good = text == "*" || text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(label));
        if !good {
            spot.error("invalid wildcard domain");
        }
    } else if !text.is_empty() && !text.split('.').all(label) {
        spot.error("invalid hostname");
    }
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.split_ascii_whitespace().collect::<String>()).ok()
}

/// Exactly one of secret, file, inline and inlineString.
pub(super) fn data_source(cursor: &Cursor<'_>) -> Option<DataSource> {
    let mut f = cursor.fields()?;
    let mut found = Vec::new();
    if let Some(c) = f.get("secret") {
        found.extend(c.text().map(DataSource::Secret));
    }
    if let Some(c) = f.get("file") {
        found.extend(c.text().map(DataSource::File));
    }
    if let Some(c) = f.get("inline")
        && let Some(text) = c.text()
    {
        match decode_base64(&text).and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(plain) => found.push(DataSource::Inline(plain)),
            None => c.spot.error_with("has to be base64 of text (PEM)", "write plain text under inlineString"),
        }
    }
    if let Some(c) = f.get("inlineString") {
        found.extend(c.text().map(DataSource::InlineString));
    }
    let given = ["secret", "file", "inline", "inlineString"].iter().filter(|n| f.has(n)).count();
    match given {
        0 => f.spot.error("data source cannot be empty"),
        1 => {}
        _ => f.spot.error("data source must have exactly one of secret, file, inline, inlineString"),
    }
    f.done();
    found.pop()
}
