//! What a resource may be called (spec/zones.md §19.4). A name is part of URLs and file names, so nothing in it may
//! mean anything there.

use super::common::EMPTY;
use super::decode::Spot;
use super::registry::KindInfo;

pub(super) const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// `[a-z0-9]([-.a-z0-9]*[a-z0-9])?`, and no two dots together.
pub fn is_valid(name: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(end)
        && name.ends_with(end)
        && name.chars().all(|c| end(c) || c == '-' || c == '.')
        && !name.contains("..")
}

pub(super) fn check(name: &str, kind: &KindInfo, spot: &Spot<'_>) -> bool {
    match kind.kind {
        // Each is a label of a host name, of SNI at least.
        "Mesh" | "MeshService" | "MeshExternalService" | "MeshMultiZoneService" => check_label(name, spot),
        _ => check_shape(name, spot),
    }
}

pub(super) fn check_label(name: &str, spot: &Spot<'_>) -> bool {
    if name.len() > MAX_LABEL_BYTES {
        spot.error(format!("cannot be longer than {MAX_LABEL_BYTES} characters"));
        return false;
    }
    check_shape(name, spot)
}

pub(super) fn check_shape(name: &str, spot: &Spot<'_>) -> bool {
    if is_valid(name) {
        return true;
    }
    if name.is_empty() {
        spot.error(EMPTY);
    } else if name.len() > MAX_NAME_BYTES {
        spot.error(format!("value length must less or equal {MAX_NAME_BYTES}"));
    } else {
        spot.error_with(
            "invalid characters: a name has lower case letters, digits, - and ., and begins and ends with a letter or digit",
            "for example backend-1",
        );
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_in_a_path_are_invalid() {
        let long = "a".repeat(254);
        for bad in
            ["", "..", "a/../b", "a/b", "a%2fb", "-a", "a-", ".a", "A", "a_b", "a..b", "a b", "a\0", "ü", long.as_str()]
        {
            assert!(!is_valid(bad), "{bad:?}");
        }
        for good in ["a", "0", "backend-1", "a.b-c.d", &long[..253]] {
            assert!(is_valid(good), "{good}");
        }
    }
}
