//! The same header rules as for HTTP/1, on header maps. Must not know connections.

use super::super::fault::Fault;
use super::super::framing::Framing;
use super::super::head::HEADERS_MAX;
use super::super::headers::{is_settable, push_field, push_framing, push_visible, request_id, scheme};
use super::super::path::{self, Spelling};
use super::super::target::{matching_host, split_host};
use super::super::traffic::Settings;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use snapshot::HeaderOps;
use std::net::IpAddr;

const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings", "trailer"];
const NEVER_FORWARDED: [&str; 4] = ["host", "expect", "x-kuma-tags", "x-forwarded-client-cert"];
const EDGE_OWN: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "x-request-id"];

/// A request's target, checked.
pub(super) struct Target {
    pub(super) authority: String,
    /// As `authority`, in the spelling hosts are matched by.
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) spelling: Spelling,
}

/// Checks what hyper leaves unchecked.
pub(super) fn check(parts: &Parts, settings: &Settings) -> Result<Target, Fault> {
    if parts.method == http::Method::CONNECT {
        return Err(Fault::ConnectMethod);
    }
    if parts.headers.len() > HEADERS_MAX {
        return Err(Fault::TooManyHeaders);
    }
    if settings.edge && parts.headers.keys().any(|name| name.as_str().contains('_')) {
        return Err(Fault::Underscore);
    }
    let authority = authority(parts)?;
    let mut host = String::new();
    matching_host(authority.as_bytes(), &mut host);
    let sent = parts.uri.path();
    let mut normal = Vec::new();
    let spelling = match sent {
        "*" => Spelling::AsSent,
        sent if sent.starts_with('/') => path::normalise(sent.as_bytes(), settings.edge, &mut normal)?,
        _ => return Err(Fault::Target),
    };
    let path = match spelling {
        Spelling::AsSent => sent.to_owned(),
        _ => String::from_utf8(normal).map_err(|_| Fault::Target)?,
    };
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::Target);
    }
    Ok(Target { authority, host, path, query: parts.uri.query().map(str::to_owned), spelling })
}

/// `:authority`, or Host where a client left that out; both must agree.
fn authority(parts: &Parts) -> Result<String, Fault> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().map_err(|_| Fault::Host)?),
        _ => return Err(Fault::Host),
    };
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let chosen = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => return Err(Fault::Host),
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => return Err(Fault::Host),
    };
    split_host(chosen.as_bytes()).map(|_| chosen.to_owned()).ok_or(Fault::Host)
}

/// Headers as they go to an endpoint; `content-length` and `te: trailers` stay.
pub(super) fn for_endpoint(
    headers: &mut HeaderMap,
    ops: Option<&HeaderOps>,
    settings: &Settings,
    peer: Option<IpAddr>,
) {
    for name in HOP_BY_HOP.iter().chain(&NEVER_FORWARDED) {
        headers.remove(*name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
    if settings.edge {
        forwarding(headers, settings, peer);
    }
    apply(headers, ops);
}

fn forwarding(headers: &mut HeaderMap, settings: &Settings, peer: Option<IpAddr>) {
    let mut chain = Vec::new();
    for value in headers.get_all("x-forwarded-for") {
        chain.extend_from_slice(value.as_bytes());
        chain.push(b',');
    }
    if let Some(peer) = peer {
        chain.extend_from_slice(peer.to_canonical().to_string().as_bytes());
    }
    let envoy: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-envoy-")).cloned().collect();
    for name in envoy {
        headers.remove(name);
    }
    let values = [
        HeaderValue::from_bytes(&chain),
        HeaderValue::from_str(scheme(settings)),
        HeaderValue::from_bytes(&request_id()),
    ];
    for (name, value) in EDGE_OWN.into_iter().zip(values) {
        headers.remove(name);
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Headers as they go to the client.
pub(super) fn for_client(headers: &mut HeaderMap, ops: Option<&HeaderOps>, settings: &Settings) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(server) = settings.server.as_deref().and_then(|server| HeaderValue::from_str(server).ok()) {
        headers.insert(header::SERVER, server);
    }
    apply(headers, ops);
}

fn apply(headers: &mut HeaderMap, ops: Option<&HeaderOps>) {
    let Some(ops) = ops else { return };
    for name in &ops.remove {
        headers.remove(name.as_str());
    }
    let pair = |(name, value): &(String, String)| {
        let sound = is_settable(name, value);
        let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| sound)?;
        Some((name, HeaderValue::from_str(value).ok()?))
    };
    for (name, value) in ops.set.iter().filter_map(pair) {
        headers.insert(name, value);
    }
    for (name, value) in ops.add.iter().filter_map(pair) {
        headers.append(name, value);
    }
}

/// A request's head in HTTP/1.1. `headers` have been through `for_endpoint`.
pub(super) fn write_one(
    (method, headers): (&http::Method, &HeaderMap),
    (authority, path, query): (&str, &str, Option<&str>),
    framing: Framing,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    push_visible(out, path.as_bytes());
    if let Some(query) = query {
        out.push(b'?');
        push_visible(out, query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_field(out, b"host", authority.as_bytes());
    for (name, value) in headers {
        if !matches!(name.as_str(), "content-length" | "te" | "cookie") {
            push_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    // HTTP/2 sends cookies apart; HTTP/1 allows one field only (RFC 9113 §8.2.3).
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !cookies.is_empty() {
        push_field(out, b"cookie", &cookies.join(&b"; "[..]));
    }
    match framing {
        Framing::Empty if matches!(method.as_str(), "POST" | "PUT" | "PATCH") => push_framing(out, Framing::Length(0)),
        framing => push_framing(out, framing),
    }
    out.extend_from_slice(b"\r\n");
}
