//! Tokens as friends and strangers present them.
use super::super::keys::generate_signing_key;
use super::*;
use std::sync::OnceLock;

const NOW_MS: u64 = 1_800_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn scope() -> TokenScope {
    TokenScope::Dataplane { mesh: "default".into() }
}

/// Two keys for all tests: making one is slow.
fn keys() -> &'static [String; 2] {
    static KEYS: OnceLock<[String; 2]> = OnceLock::new();
    KEYS.get_or_init(|| [0, 1].map(|_| STANDARD.encode(generate_signing_key().unwrap())))
}

fn ring(secrets: &[(&str, &str)]) -> KeyRing {
    KeyRing::load(scope(), secrets.iter().copied())
}

fn first() -> KeyRing {
    ring(&[("dataplane-token-signing-key-default-1", &keys()[0])])
}

fn claims() -> DataplaneClaims {
    DataplaneClaims {
        name: "web-1".into(),
        mesh: "default".into(),
        tags: BTreeMap::from([("kuma.io/service".to_string(), vec!["web".to_string(), "api".to_string()])]),
        kind: "dataplane".into(),
    }
}

fn unsigned(token: &str) -> (serde_json::Value, serde_json::Value) {
    let part =
        |i: usize| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(i).unwrap()).unwrap()).unwrap();
    (part(0), part(1))
}

#[test]
fn issued_token_verifies_and_has_kumas_claims() {
    let token = first().issue(&claims(), HOUR, NOW_MS).unwrap();
    assert_eq!(first().verify::<DataplaneClaims>(&token, NOW_MS), Ok(claims()));
    let (header, body) = unsigned(&token);
    assert_eq!((header["alg"].as_str(), header["kid"].as_str()), (Some("RS256"), Some("1")));
    let now_s = NOW_MS / 1000;
    assert_eq!(body["iat"], now_s);
    assert_eq!(body["nbf"], now_s - 300);
    assert_eq!(body["exp"], now_s + 3600);
    assert_eq!(body["Name"], "web-1");
    assert_eq!(body["Tags"]["kuma.io/service"][1], "api");
    assert_eq!(body["jti"].as_str().unwrap().len(), 36);
}

#[test]
fn highest_serial_signs_by_number_and_older_keys_still_verify() {
    let old = first().issue(&claims(), HOUR, NOW_MS).unwrap();
    let old_name = "dataplane-token-signing-key-default-1";
    let both = ring(&[("dataplane-token-signing-key-default-10", &keys()[1]), (old_name, &keys()[0])]);
    let token = both.issue(&claims(), HOUR, NOW_MS).unwrap();
    assert_eq!(unsigned(&token).0["kid"], "10");
    both.verify::<DataplaneClaims>(&old, NOW_MS).unwrap();
    let rotated = ring(&[("dataplane-token-signing-key-default-10", &keys()[1])]);
    assert_eq!(
        rotated.verify::<DataplaneClaims>(&old, NOW_MS).unwrap_err().to_string(),
        "there is no signing key with KID 1. Secret of name \"dataplane-token-signing-key-default-1\" in mesh \
         \"default\" is not found. If signing key was rotated, regenerate the token"
    );
}

#[test]
fn foreign_key_of_the_same_id_is_refused() {
    let foreign = ring(&[("dataplane-token-signing-key-default-1", &keys()[1])]);
    let token = foreign.issue(&claims(), HOUR, NOW_MS).unwrap();
    assert_eq!(first().verify::<DataplaneClaims>(&token, NOW_MS), Err(TokenError::BadSignature));
}

#[test]
fn unknown_global_key_is_named_as_kuma_does() {
    let token = first().issue(&claims(), HOUR, NOW_MS).unwrap();
    let users = KeyRing::load(TokenScope::User, []);
    assert_eq!(
        users.verify::<UserClaims>(&token, NOW_MS).unwrap_err().to_string(),
        "there is no signing key with KID 1. GlobalSecret of name \"user-token-signing-key-1\" is not found. \
         If signing key was rotated, regenerate the token"
    );
}

#[test]
fn time_bounds_hold() {
    let ring = first();
    let token = ring.issue(&claims(), HOUR, NOW_MS).unwrap();
    let verify = |now_ms| ring.verify::<DataplaneClaims>(&token, now_ms);
    verify(NOW_MS + 3_599_000).unwrap();
    assert_eq!(verify(NOW_MS + 3_600_000), Err(TokenError::Expired { ended_s: NOW_MS / 1000 + 3600 }));
    verify(NOW_MS - 300_000).unwrap();
    assert_eq!(verify(NOW_MS - 301_000), Err(TokenError::NotYetValid));
}

#[test]
fn revoked_token_is_refused() {
    let token = first().issue(&claims(), HOUR, NOW_MS).unwrap();
    let id = unsigned(&token).1["jti"].as_str().unwrap().to_string();
    let list = STANDARD.encode(format!("another, {id}\n"));
    let secrets =
        [("dataplane-token-signing-key-default-1", keys()[0].as_str()), ("dataplane-token-revocations-default", &list)];
    let error = ring(&secrets).verify::<DataplaneClaims>(&token, NOW_MS).unwrap_err();
    assert_eq!(error.to_string(), "token is revoked");
}

#[test]
fn other_algorithms_are_refused_by_name() {
    let token = first().issue(&claims(), HOUR, NOW_MS).unwrap();
    let body = token.split('.').nth(1).unwrap();
    for alg in ["none", "HS256", "RS512", "ES256"] {
        let head = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{alg}\",\"kid\":\"1\"}}"));
        for signature in ["", "AAAA"] {
            let forged = format!("{head}.{body}.{signature}");
            let error = first().verify::<DataplaneClaims>(&forged, NOW_MS).unwrap_err();
            assert_eq!(error, TokenError::Algorithm(alg.into()));
        }
    }
    // The classic: the public key as an HMAC secret.
    let public = public_key_pem(&decode_text(&keys()[0]).unwrap()).unwrap();
    let header = Header { kid: Some("1".into()), ..Header::new(Algorithm::HS256) };
    let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(public.as_bytes())).unwrap();
    assert!(matches!(first().verify::<DataplaneClaims>(&forged, NOW_MS), Err(TokenError::Algorithm(_))));
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let token = first().issue(&claims(), HOUR, NOW_MS).unwrap();
    let (head, rest) = token.split_once('.').unwrap();
    let no_kid = URL_SAFE_NO_PAD.encode("{\"alg\":\"RS256\"}");
    assert_eq!(first().verify::<DataplaneClaims>(&format!("{no_kid}.{rest}"), NOW_MS), Err(TokenError::NoKid));
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    for bad in ["", "a", "a.b", "a.b.c", "a.b.c.d", &format!("{head}..AAAA"), "ü.ü.ü", &long] {
        assert!(first().verify::<DataplaneClaims>(bad, NOW_MS).is_err(), "{bad}");
    }
    let mut tampered = token.clone();
    tampered.replace_range(head.len() + 5..head.len() + 6, "A");
    if tampered != token {
        assert!(first().verify::<DataplaneClaims>(&tampered, NOW_MS).is_err());
    }
}

#[test]
fn a_broken_secret_stops_only_itself() {
    let ring = ring(&[
        ("dataplane-token-signing-key-default-1", &keys()[0]),
        ("dataplane-token-signing-key-default-2", "%%%"),
        ("dataplane-token-signing-key-default-3", "bm9uc2Vuc2U="),
        ("dataplane-token-signing-key-default-x-1", "bm9uc2Vuc2U="),
        ("something-else", "bm9uc2Vuc2U="),
    ]);
    assert_eq!(ring.problems().len(), 2, "{:?}", ring.problems());
    ring.issue(&claims(), HOUR, NOW_MS).unwrap();
    assert!(matches!(KeyRing::load(TokenScope::Zone, []).issue(&1, HOUR, 0), Err(TokenError::NoSigningKey { .. })));
}

#[test]
fn dataplane_token_permits_its_proxy_only() {
    let tags = |pairs: &[(&str, &str)]| -> Tags { pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() };
    let web = tags(&[("kuma.io/service", "web")]);
    let db = tags(&[("kuma.io/service", "db")]);
    let why = |name: &str, mesh: &str, tags: &[&Tags]| {
        check_dataplane(&claims(), name, mesh, tags).map_err(|e| e.to_string())
    };
    assert_eq!(why("web-1", "default", &[&web]), Ok(()));
    assert_eq!(
        why("db-1", "default", &[&web]).unwrap_err(),
        "proxy name from requestor: db-1 is different than in token: web-1"
    );
    assert_eq!(
        why("web-1", "other", &[&web]).unwrap_err(),
        "proxy mesh from requestor: other is different than in token: default"
    );
    assert_eq!(
        why("web-1", "default", &[]).unwrap_err(),
        "dataplane has no tag \"kuma.io/service\" required by the token"
    );
    assert_eq!(
        why("web-1", "default", &[&web, &db]).unwrap_err(),
        "dataplane contains tag \"kuma.io/service\" with value \"db\" which is not allowed with this token. \
         Allowed values in token are [web api]"
    );
    assert_eq!(check_dataplane(&DataplaneClaims::default(), "any", "any", &[]), Ok(()));
}

#[test]
fn zone_token_permits_its_scope_and_zone_only() {
    let claims = ZoneClaims { zone: "east".into(), scope: vec!["ingress".into()] };
    assert_eq!(check_zone(&claims, "ingress", "east"), Ok(()));
    assert_eq!(
        check_zone(&claims, "egress", "east").unwrap_err().to_string(),
        "token cannot be used to authenticate zone entity (egress is out of token's scope: [ingress])"
    );
    assert_eq!(
        check_zone(&claims, "ingress", "west").unwrap_err().to_string(),
        "zone from requestor: west is different than in token: east"
    );
}

#[test]
fn null_lists_of_go_are_empty_ones() {
    let claims: ZoneClaims = serde_json::from_str("{\"Zone\":\"a\",\"Scope\":null}").unwrap();
    assert_eq!(claims, ZoneClaims { zone: "a".into(), scope: vec![] });
    let claims: DataplaneClaims = serde_json::from_str("{\"Mesh\":\"m\",\"Tags\":null,\"Type\":\"\"}").unwrap();
    assert_eq!(claims.mesh, "m");
}
