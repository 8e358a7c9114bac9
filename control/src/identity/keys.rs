//! Randomness, PEM, and the RSA keys that sign tokens. It must not know what a key is used for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use std::fmt::Write;

/// From the operating system's generator, by way of the TLS library.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| "the system's random generator failed".to_string())?;
    Ok(bytes)
}

/// A random UUID (RFC 9562 §5.4).
pub fn uuid() -> Result<String, String> {
    let mut bytes: [u8; 16] = random_bytes()?;
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    let h = hex(&bytes);
    let part = |from: usize, to: usize| h.get(from..to).unwrap_or_default();
    Ok([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

pub(super) fn pem(tag: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {tag}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    let _ = writeln!(text, "-----END {tag}-----");
    text
}

/// A new RSA key of 2048 bits, PKCS#1 PEM: what Kuma keeps in signing-key secrets. Takes a good part of a second.
pub fn generate_signing_key() -> Result<String, String> {
    let key =
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(|e| format!("no RSA key made: {e}"))?;
    let pkcs1 = inner_key(key.serialized_der()).ok_or("the RSA key made has an unknown form")?;
    Ok(pem("RSA PRIVATE KEY", pkcs1))
}

/// The public half of a private key in PEM.
pub fn public_key_pem(private_pem: &str) -> Result<String, String> {
    KeyPair::from_pem(private_pem).map(|k| k.public_key_pem()).map_err(|e| format!("not a private key in PEM: {e}"))
}

/// The octet string inside PKCS#8 (RFC 5958 §2): version, algorithm, key.
fn inner_key(pkcs8: &[u8]) -> Option<&[u8]> {
    let (0x30, body, _) = element(pkcs8)? else { return None };
    let (0x02, _, rest) = element(body)? else { return None };
    let (0x30, _, rest) = element(rest)? else { return None };
    let (0x04, key, _) = element(rest)? else { return None };
    Some(key)
}

/// One DER element: tag, content, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > 4 {
            return None;
        }
        length = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_keys_are_pkcs1_and_give_their_public_half() {
        let key = generate_signing_key().unwrap();
        assert!(key.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"), "{key}");
        assert!(public_key_pem(&key).unwrap().starts_with("-----BEGIN PUBLIC KEY-----"));
        assert!(public_key_pem("nonsense").is_err());
    }

    #[test]
    fn uuids_are_version_four_and_differ() {
        let (one, two) = (uuid().unwrap(), uuid().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 36);
        assert_eq!(one.as_bytes()[14], b'4', "{one}");
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }
}
