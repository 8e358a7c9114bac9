//! Tokens of proxies, zones and users: RS256 JWTs with Kuma's claims, the rings of keys that sign and verify them, and
//! what a token permits. It must not know where keys are kept nor who asks.

use super::keys::{public_key_pem, uuid};
use crate::resource::Tags;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

pub const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Keys of one ring; the highest serials are kept.
const RING_KEYS_MAX: usize = 64;
/// Tokens are valid from this long before they were made, for clocks differ (seconds).
const BACKDATED_S: u64 = 300;

/// Which keys: everything a token is for has its own ring.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenScope {
    Dataplane { mesh: String },
    Zone,
    User,
}

impl TokenScope {
    /// `Secret` (of a mesh) or `GlobalSecret`.
    pub fn secret_kind(&self) -> &'static str {
        match self {
            Self::Dataplane { .. } => "Secret",
            Self::Zone | Self::User => "GlobalSecret",
        }
    }

    /// The mesh of its secrets; empty for global ones.
    pub fn mesh(&self) -> &str {
        match self {
            Self::Dataplane { mesh } => mesh,
            Self::Zone | Self::User => "",
        }
    }

    pub fn key_name(&self, serial: &str) -> String {
        format!("{}{serial}", self.key_prefix())
    }

    pub fn revocations_name(&self) -> String {
        match self {
            Self::Dataplane { mesh } => format!("dataplane-token-revocations-{mesh}"),
            Self::Zone => "zone-token-revocations".into(),
            Self::User => "user-token-revocations".into(),
        }
    }

    fn key_prefix(&self) -> String {
        match self {
            Self::Dataplane { mesh } => format!("dataplane-token-signing-key-{mesh}-"),
            Self::Zone => "zone-token-signing-key-".into(),
            Self::User => "user-token-signing-key-".into(),
        }
    }

    /// The serial, if that is the name of one of its keys.
    pub fn serial_of(&self, secret_name: &str) -> Option<u64> {
        secret_name.strip_prefix(&self.key_prefix())?.parse().ok()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataplaneClaims {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "Mesh")]
    pub mesh: String,
    #[serde(rename = "Tags", deserialize_with = "null_is_empty")]
    pub tags: BTreeMap<String, Vec<String>>,
    /// `dataplane`, `ingress` or empty.
    #[serde(rename = "Type")]
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneClaims {
    #[serde(rename = "Zone")]
    pub zone: String,
    #[serde(rename = "Scope", deserialize_with = "null_is_empty")]
    pub scope: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserClaims {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "Groups", deserialize_with = "null_is_empty")]
    pub groups: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Serialize, Deserialize)]
struct Claims<C> {
    #[serde(flatten)]
    own: C,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    jti: String,
    iat: Option<Moment>,
    nbf: Option<Moment>,
    exp: Option<Moment>,
}

/// Seconds since 1970, which JWT allows to have a fraction (RFC 7519 §2).
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum Moment {
    Whole(u64),
    Fraction(f64),
}

impl Moment {
    fn seconds(self) -> f64 {
        match self {
            Self::Whole(s) => s as f64,
            Self::Fraction(s) => s,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    Malformed(String),
    NoKid,
    UnknownKey {
        scope: TokenScope,
        kid: String,
    },
    Algorithm(String),
    BadSignature,
    Expired {
        ended_s: u64,
    },
    NotYetValid,
    Revoked,
    /// Genuine, but not for this request.
    NotPermitted(String),
    /// Nothing to sign with.
    NoSigningKey {
        scope: TokenScope,
    },
    Failed(String),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "could not parse token: {why}"),
            Self::NoKid => write!(f, "JWT token must have kid header"),
            Self::UnknownKey { scope, kid } => {
                let (kind, name) = (scope.secret_kind(), scope.key_name(kid));
                let place = match scope.mesh() {
                    "" => String::new(),
                    mesh => format!(" in mesh \"{mesh}\""),
                };
                write!(f, "there is no signing key with KID {kid}. {kind} of name \"{name}\"{place} is not found. ")?;
                write!(f, "If signing key was rotated, regenerate the token")
            }
            Self::Algorithm(alg) => {
                write!(f, "could not parse token: it is signed with {alg:?}, only RS256 is accepted")
            }
            Self::BadSignature => write!(f, "could not parse token: crypto/rsa: verification error"),
            Self::Expired { ended_s } => {
                let ended = crate::time::to_rfc3339(ended_s.saturating_mul(1000));
                write!(f, "token is expired since {ended}; regenerate it")
            }
            Self::NotYetValid => write!(f, "token is not valid yet; check the clocks of both machines"),
            Self::Revoked => write!(f, "token is revoked"),
            Self::NotPermitted(why) | Self::Failed(why) => write!(f, "{why}"),
            Self::NoSigningKey { scope } => {
                write!(f, "there is no signing key: make {} \"{}\"", scope.secret_kind(), scope.key_name("1"))
            }
        }
    }
}

impl std::error::Error for TokenError {}

/// The keys of one scope, and what was revoked.
pub struct KeyRing {
    scope: TokenScope,
    keys: BTreeMap<u64, KeyOfRing>,
    revoked: BTreeSet<String>,
    problems: Vec<String>,
}

struct KeyOfRing {
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl KeyRing {
    /// From secrets (name, base64 `data`); those of other scopes are passed over. A broken key stops only itself:
    /// see `problems`.
    pub fn load<'a>(scope: TokenScope, secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut ring = Self { scope, keys: BTreeMap::new(), revoked: BTreeSet::new(), problems: Vec::new() };
        let revocations = ring.scope.revocations_name();
        for (name, data) in secrets {
            let serial = ring.scope.serial_of(name);
            if serial.is_none() && name != revocations {
                continue;
            }
            match (decode_text(data), serial) {
                (Ok(text), None) => {
                    let ids = text.split(',').map(|id| id.trim().to_string()).filter(|id| !id.is_empty());
                    ring.revoked.extend(ids);
                }
                (Ok(text), Some(serial)) => match KeyOfRing::read(&text) {
                    Ok(key) => drop(ring.keys.insert(serial, key)),
                    Err(why) => ring.problem(name, &why),
                },
                (Err(why), _) => ring.problem(name, &why),
            }
            if ring.keys.len() > RING_KEYS_MAX {
                ring.keys.pop_first();
            }
        }
        ring
    }

    fn problem(&mut self, name: &str, why: &str) {
        self.problems.push(format!("{} {name}: {why}", self.scope.secret_kind()));
    }

    /// Secrets of this ring that can't be used, and why.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A token with `claims`, signed by the key of the highest serial.
    pub fn issue<C: Serialize>(&self, claims: &C, lifetime: Duration, now_ms: u64) -> Result<String, TokenError> {
        let (serial, key) =
            self.keys.last_key_value().ok_or_else(|| TokenError::NoSigningKey { scope: self.scope.clone() })?;
        let now_s = now_ms / 1000;
        let claims = Claims {
            own: claims,
            jti: uuid().map_err(TokenError::Failed)?,
            iat: Some(Moment::Whole(now_s)),
            nbf: Some(Moment::Whole(now_s.saturating_sub(BACKDATED_S))),
            exp: Some(Moment::Whole(now_s.saturating_add(lifetime.as_secs()))),
        };
        let header = Header { kid: Some(serial.to_string()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &key.signing)
            .map_err(|e| TokenError::Failed(format!("token not signed: {e}")))
    }

    /// The claims of a token that one of these keys signed, that is in force and not revoked.
    pub fn verify<C: DeserializeOwned>(&self, token: &str, now_ms: u64) -> Result<C, TokenError> {
        let token = token.trim();
        let (algorithm, kid) = header(token)?;
        // The algorithm is ours to choose, never the token's: otherwise a public key could pass for an HMAC secret.
        if algorithm != "RS256" {
            return Err(TokenError::Algorithm(algorithm));
        }
        let kid = kid.ok_or(TokenError::NoKid)?;
        let unknown = || TokenError::UnknownKey { scope: self.scope.clone(), kid: printable(&kid) };
        let key = kid.parse().ok().and_then(|serial: u64| self.keys.get(&serial)).ok_or_else(unknown)?;
        let mut validation = Validation::new(Algorithm::RS256);
        // Times are judged below, by the clock that was passed in.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims<C>>(token, &key.verifying, &validation)
            .map_err(|e| match e.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::BadSignature,
                _ => TokenError::Malformed(e.to_string()),
            })?
            .claims;
        let now_s = (now_ms / 1000) as f64;
        if let Some(end) = claims.exp.map(Moment::seconds)
            && now_s >= end
        {
            return Err(TokenError::Expired { ended_s: end as u64 });
        }
        if claims.nbf.is_some_and(|start| now_s < start.seconds()) {
            return Err(TokenError::NotYetValid);
        }
        if self.revoked.contains(&claims.jti) {
            return Err(TokenError::Revoked);
        }
        Ok(claims.own)
    }
}

impl KeyOfRing {
    fn read(private_pem: &str) -> Result<Self, String> {
        let bad = |e: jsonwebtoken::errors::Error| format!("not an RSA private key in PEM: {e}");
        let public = public_key_pem(private_pem)?;
        Ok(Self {
            signing: EncodingKey::from_rsa_pem(private_pem.as_bytes()).map_err(bad)?,
            verifying: DecodingKey::from_rsa_pem(public.as_bytes()).map_err(bad)?,
        })
    }
}

fn decode_text(data: &str) -> Result<String, String> {
    let bytes = STANDARD.decode(data.trim()).map_err(|e| format!("data is not base64: {e}"))?;
    String::from_utf8(bytes).map_err(|_| "data is not text".to_string())
}

/// Algorithm and key id, unverified.
fn header(token: &str) -> Result<(String, Option<String>), TokenError> {
    #[derive(Deserialize)]
    struct Head {
        alg: String,
        kid: Option<String>,
    }
    let malformed = |why: &str| TokenError::Malformed(why.to_string());
    if token.len() > TOKEN_BYTES_MAX {
        return Err(malformed("it is too long"));
    }
    let mut parts = token.split('.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(malformed("token contains an invalid number of segments"));
    };
    let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| malformed("its header is not base64url"))?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| malformed("its header is not a JWT header"))?;
    Ok((printable(&head.alg), head.kid))
}

/// A stranger's text, short and on one line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Whether a dataplane token is for this proxy; `tags` are those of every inbound and of the gateway.
pub fn check_dataplane(claims: &DataplaneClaims, name: &str, mesh: &str, tags: &[&Tags]) -> Result<(), TokenError> {
    let refuse = |why: String| Err(TokenError::NotPermitted(why));
    if !claims.name.is_empty() && claims.name != name {
        return refuse(format!("proxy name from requestor: {name} is different than in token: {}", claims.name));
    }
    if !claims.mesh.is_empty() && claims.mesh != mesh {
        return refuse(format!("proxy mesh from requestor: {mesh} is different than in token: {}", claims.mesh));
    }
    for (tag, allowed) in &claims.tags {
        let values: BTreeSet<&String> = tags.iter().filter_map(|t| t.get(tag)).collect();
        if values.is_empty() {
            return refuse(format!("dataplane has no tag \"{tag}\" required by the token"));
        }
        if let Some(value) = values.into_iter().find(|v| !allowed.contains(v)) {
            return refuse(format!(
                "dataplane contains tag \"{tag}\" with value \"{value}\" which is not allowed with this token. Allowed \
                 values in token are {}",
                listed(allowed)
            ));
        }
    }
    Ok(())
}

/// Whether a zone token is for an `ingress` or `egress` of this zone.
pub fn check_zone(claims: &ZoneClaims, kind: &str, zone: &str) -> Result<(), TokenError> {
    if !claims.scope.iter().any(|s| s == kind) {
        return Err(TokenError::NotPermitted(format!(
            "token cannot be used to authenticate zone entity ({kind} is out of token's scope: {})",
            listed(&claims.scope)
        )));
    }
    if !claims.zone.is_empty() && claims.zone != zone {
        return Err(TokenError::NotPermitted(format!(
            "zone from requestor: {zone} is different than in token: {}",
            claims.zone
        )));
    }
    Ok(())
}

fn listed(values: &[String]) -> String {
    format!("[{}]", values.join(" "))
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
