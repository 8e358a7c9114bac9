//! Hostname patterns and their precedence: exact, then the longest wildcard, then any.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;

/// `foo.example.com`, `*.example.com` or `*`. Lower case, without port or trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// What follows the star, with its dot: `.example.com`.
    Suffix(String),
    Any,
}

impl HostPattern {
    /// Empty means any.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        match text.strip_prefix('*') {
            _ if text.is_empty() => Self::Any,
            Some("") => Self::Any,
            Some(suffix) => Self::Suffix(suffix.to_owned()),
            None => Self::Exact(text),
        }
    }

    /// `host` is lower case and has no port.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Self::Any => true,
        }
    }

    /// Whether every host of `other` is a host of this pattern.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Suffix(_), Self::Exact(name)) => self.matches(name),
            (Self::Suffix(a), Self::Suffix(b)) => b.ends_with(a.as_str()),
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (_, _) => false,
        }
    }

    /// Whether it begins with a star, and the rest of its text.
    fn parts(&self) -> (bool, &str) {
        match self {
            Self::Exact(name) => (false, name),
            Self::Suffix(suffix) => (true, suffix),
            Self::Any => (true, ""),
        }
    }

    pub fn intersects(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }
}

/// As their texts.
impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.parts(), other.parts()) {
            ((true, one), (true, two)) | ((false, one), (false, two)) => one.cmp(two),
            ((true, _), (false, two)) => "*".cmp(two).then(Ordering::Greater),
            ((false, one), (true, _)) => one.cmp("*").then(Ordering::Less),
        }
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(name) => to.serialize_str(name),
            Self::Suffix(_) => to.collect_str(self),
            Self::Any => to.serialize_str("*"),
        }
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = HostPattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host name or `*` or `*.suffix`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<HostPattern, E> {
                Ok(HostPattern::parse(text))
            }
        }
        from.deserialize_str(Text)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}
