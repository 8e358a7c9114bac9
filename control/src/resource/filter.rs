//! Filters of a MeshGatewayRoute: reading and checking (spec/gateway.md §3.6, §3.9).

use super::common::{EMPTY, PORT_MESSAGE};
use super::decode::{Cursor, Fields, Spot};
use super::{HeaderFilter, MatcherKind, Mirror, NameValue, PathReplace, Redirect, Rewrite, RouteFilter, RouteMatch};

const REDIRECT_STATUS: [i128; 5] = [301, 302, 303, 307, 308];

pub(super) fn decode(cursor: &Cursor<'_>) -> Option<RouteFilter> {
    let mut f = cursor.fields()?;
    let mut found = Vec::new();
    if let Some(c) = f.get("requestHeader") {
        found.extend(header_filter(&c, "request_header").map(RouteFilter::RequestHeader));
    }
    if let Some(c) = f.get("responseHeader") {
        found.extend(header_filter(&c, "response_header").map(RouteFilter::ResponseHeader));
    }
    if let Some(c) = f.get("mirror") {
        found.extend(mirror(&c).map(RouteFilter::Mirror));
    }
    if let Some(c) = f.get("redirect") {
        found.extend(redirect(&c).map(RouteFilter::Redirect));
    }
    if let Some(c) = f.get("rewrite") {
        found.extend(rewrite(&c).map(RouteFilter::Rewrite));
    }
    let names = ["requestHeader", "responseHeader", "mirror", "redirect", "rewrite"];
    let given = names.iter().filter(|n| f.has(n)).count();
    if given != 1 {
        f.spot.error(format!("must have exactly one of {}", names.join(", ")));
    }
    f.done();
    found.pop()
}

/// Rules that need the whole list of filters, or the matches beside it.
pub(super) fn rules(spot: &Spot<'_>, filters: &[(RouteFilter, Spot<'_>)], matches: &[RouteMatch]) {
    let redirects = filters.iter().filter(|(f, _)| matches!(f, RouteFilter::Redirect(_))).count();
    if redirects > 0 && filters.len() > 1 {
        spot.error("redirects cannot be used with other filters");
    }
    let to_backend = filters.iter().any(|(f, _)| matches!(f, RouteFilter::Rewrite(r) if r.host_to_backend_hostname));
    let has_prefix = matches.iter().filter_map(|m| m.path.as_ref()).any(|p| p.kind == MatcherKind::Prefix);
    for (filter, spot) in filters {
        match filter {
            RouteFilter::RequestHeader(headers) if to_backend => host_untouched(headers, spot),
            RouteFilter::Rewrite(r) => prefix_needed(r.path.as_ref(), has_prefix, &spot.member("rewrite")),
            RouteFilter::Redirect(r) => prefix_needed(r.path.as_ref(), has_prefix, &spot.member("redirect.path")),
            _ => {}
        }
    }
}

fn prefix_needed(path: Option<&PathReplace>, has_prefix: bool, spot: &Spot<'_>) {
    if matches!(path, Some(PathReplace::ReplacePrefixMatch(_))) && !has_prefix {
        spot.member("replacePrefixMatch").error("cannot be used without a match on path prefix");
    }
}

fn host_untouched(headers: &HeaderFilter, spot: &Spot<'_>) {
    const MESSAGE: &str = "cannot modify 'host' header, when route has set 'rewrite.host_to_backend_hostname' option";
    let is_host = |name: &str| name.eq_ignore_ascii_case("host");
    let spot = spot.member("request_header");
    for (list, name) in [(&headers.set, "set"), (&headers.add, "add")] {
        for (index, _) in list.iter().enumerate().filter(|(_, h)| is_host(&h.name)) {
            spot.member(name).item(index).member("name").error(MESSAGE);
        }
    }
    for (index, _) in headers.remove.iter().enumerate().filter(|(_, h)| is_host(h)) {
        spot.member("remove").item(index).error(MESSAGE);
    }
}

fn header_filter(cursor: &Cursor<'_>, reported: &str) -> Option<HeaderFilter> {
    let mut f = cursor.fields()?;
    // Kuma's paths have the field's original name.
    if let Some((parent, _)) = f.spot.path.rsplit_once('.') {
        f.spot.path = format!("{parent}.{reported}");
    }
    let filter =
        HeaderFilter { set: name_values(&mut f, "set"), add: name_values(&mut f, "add"), remove: removals(&mut f) };
    if !["set", "add", "remove"].iter().any(|n| f.has(n)) {
        f.spot.error(EMPTY);
    }
    f.done();
    Some(filter)
}

fn name_values(f: &mut Fields<'_>, list: &'static str) -> Vec<NameValue> {
    let mut all = Vec::new();
    for item in f.items(list) {
        let Some(mut e) = item.fields() else { continue };
        let (name, value) = (e.text("name"), e.text("value"));
        for (text, field) in [(&name, "name"), (&value, "value")] {
            if text.is_empty() {
                e.spot(field).error(EMPTY);
            }
        }
        header_name(&name, &e.spot("name"));
        if http::HeaderValue::from_str(&value).is_err() {
            e.spot("value").error("is not a valid header value");
        }
        e.done();
        all.push(NameValue { name, value });
    }
    all
}

fn removals(f: &mut Fields<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for item in f.items("remove") {
        let Some(name) = item.text() else { continue };
        if name.is_empty() {
            item.spot.error(EMPTY);
        }
        header_name(&name, &item.spot);
        all.push(name);
    }
    all
}

/// `:authority` stands for Host.
fn header_name(name: &str, spot: &Spot<'_>) {
    if !name.is_empty() && name != ":authority" && http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        spot.error("is not a valid header name");
    }
}

fn mirror(cursor: &Cursor<'_>) -> Option<Mirror> {
    let mut f = cursor.fields()?;
    let percentage = f.get("percentage");
    let share = percentage.as_ref().and_then(Cursor::number);
    match (&percentage, share) {
        (None, _) => f.spot("percentage").error(EMPTY),
        (_, Some(p)) if !(0.0..=100.0).contains(&p) => f.spot("percentage").error("has to be in [0.0 - 100.0] range"),
        _ => {}
    }
    let backend = match f.get("backend") {
        Some(cursor) => super::route::backend(&cursor),
        None => {
            f.spot("backend").error(EMPTY);
            None
        }
    };
    f.done();
    Some(Mirror { percentage: share.unwrap_or_default(), backend: backend.unwrap_or_default() })
}

fn redirect(cursor: &Cursor<'_>) -> Option<Redirect> {
    let mut f = cursor.fields()?;
    let scheme = f.text("scheme");
    let hostname = f.text("hostname");
    super::common::hostname(&hostname, &f.spot("hostname"));
    let port = f.get("port").and_then(|c| c.in_range::<u16>(0..=65535, PORT_MESSAGE)).filter(|p| *p != 0);
    let status_code = f.get("statusCode").and_then(|c| status(&c));
    if !f.has("statusCode") {
        let mut spot = f.spot("statusCode");
        spot.path = f.spot.member("status_code").path;
        spot.error_with("must be in the range [300, 308]", "one of 301, 302, 303, 307, 308");
    }
    let path = f.get("path").and_then(|c| {
        let mut p = c.fields()?;
        let path = path_replace(&mut p);
        p.done();
        path
    });
    f.done();
    Some(Redirect { scheme, hostname, port, status_code: status_code.unwrap_or_default(), path })
}

fn status(cursor: &Cursor<'_>) -> Option<u16> {
    let value = cursor.integer()?;
    let mut spot = cursor.spot.clone();
    spot.path = spot.path.replace("statusCode", "status_code");
    if !(300..=308).contains(&value) {
        spot.error("must be in the range [300, 308]");
    } else if !REDIRECT_STATUS.contains(&value) {
        spot.error_with(format!("{value} is not a redirect with a Location"), "one of 301, 302, 303, 307, 308");
    }
    u16::try_from(value).ok()
}

fn path_replace(f: &mut Fields<'_>) -> Option<PathReplace> {
    let (full, prefix) = (f.get("replaceFull"), f.get("replacePrefixMatch"));
    if full.is_some() && prefix.is_some() {
        f.spot.error("must have only one of replaceFull, replacePrefixMatch");
    }
    match (full, prefix) {
        (Some(cursor), _) => cursor.text().map(PathReplace::ReplaceFull),
        (None, Some(cursor)) => cursor.text().map(PathReplace::ReplacePrefixMatch),
        (None, None) => None,
    }
}

fn rewrite(cursor: &Cursor<'_>) -> Option<Rewrite> {
    let mut f = cursor.fields()?;
    let path = path_replace(&mut f);
    let host_to_backend_hostname = f.flag("hostToBackendHostname");
    f.done();
    Some(Rewrite { path, host_to_backend_hostname })
}
