//! Secret and GlobalSecret: reading and checking (spec/zones.md §16).

use super::Secret;
use super::common::decode_base64;
use super::decode::Fields;

/// Kubernetes' and etcd's limit of a secret.
const MAX_SECRET_BYTES: usize = 1 << 20;

pub(super) fn decode(f: &mut Fields<'_>) -> Secret {
    let data = f.get("data").and_then(|c| c.text()).unwrap_or_default();
    let spot = f.spot("data");
    if data.is_empty() {
        spot.error_with(super::common::EMPTY, "the secret's bytes as base64: data: $(base64 -w0 FILE)");
    } else {
        match decode_base64(&data) {
            None => spot.error_with("has to be base64", "data: $(base64 -w0 FILE)"),
            Some(bytes) if bytes.len() > MAX_SECRET_BYTES => {
                spot.error(format!("has {} bytes, more than the limit of {MAX_SECRET_BYTES}", bytes.len()));
            }
            Some(_) => {}
        }
    }
    Secret { data }
}
