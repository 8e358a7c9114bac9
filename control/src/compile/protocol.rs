//! What the endpoints of a service have in common as a protocol. It knows tag values only.

use snapshot::Protocol;

/// Folds the `kuma.io/protocol` of all endpoints; one without it, or with an unknown one, makes the whole `Tcp`.
pub(super) fn common<'a>(tags: impl Iterator<Item = Option<&'a str>>) -> Protocol {
    let mut found: Option<&'static str> = None;
    for tag in tags {
        let Some((&word, stack)) = tag.and_then(stack).and_then(|s| s.first().map(|w| (w, s))) else {
            return Protocol::Tcp;
        };
        found = match found {
            None => Some(word),
            Some(before) => before_stack(before).iter().copied().find(|w| stack.contains(w)).or(Some("tcp")),
        };
    }
    of_word(found.unwrap_or("tcp"))
}

/// The protocol of one inbound or external service.
pub(super) fn of_tag(tag: Option<&String>) -> Protocol {
    of_word(tag.map_or("tcp", String::as_str))
}

fn of_word(word: &str) -> Protocol {
    match word.to_ascii_lowercase().as_str() {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        _ => Protocol::Tcp,
    }
}

fn before_stack(word: &str) -> &'static [&'static str] {
    stack(word).unwrap_or(&["tcp"])
}

/// A protocol and what it can also be handled as, richest first.
fn stack(word: &str) -> Option<&'static [&'static str]> {
    Some(match word.to_ascii_lowercase().as_str() {
        "grpc" => &["grpc", "http2", "tcp"],
        "http2" => &["http2", "tcp"],
        "http" => &["http", "tcp"],
        "kafka" => &["kafka", "tcp"],
        "tls" | "tcp" => &["tcp"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k68_protocols_fold_to_the_first_common_element_in_any_case() {
        let rows: [(&[Option<&str>], Protocol); 11] = [
            (&[Some("HTTP")], Protocol::Http),
            (&[Some("GRPC"), Some("Http2")], Protocol::Http2),
            (&[Some("http")], Protocol::Http),
            (&[Some("grpc"), Some("http2")], Protocol::Http2),
            (&[Some("http"), Some("http2")], Protocol::Tcp),
            (&[Some("http"), Some("tcp")], Protocol::Tcp),
            (&[Some("kafka"), Some("http")], Protocol::Tcp),
            (&[Some("tls"), Some("tls")], Protocol::Tcp),
            (&[Some("grpc"), Some("grpc"), Some("grpc")], Protocol::Grpc),
            (&[Some("http"), None], Protocol::Tcp),
            (&[], Protocol::Tcp),
        ];
        for (tags, expected) in rows {
            assert_eq!(common(tags.iter().copied()), expected, "{tags:?}");
        }
    }
}
