//! Who asks, and what only the admin may.

use super::answer::ApiError;
use super::{Api, Call, is_local_host};
use crate::identity::{TokenScope, UserClaims};
use http::{HeaderMap, header};
use std::net::IpAddr;

const ADMIN: &str = "mesh-system:admin";
const ANONYMOUS: &str = "mesh-system:anonymous";
const AUTHENTICATED: &str = "mesh-system:authenticated";
const UNAUTHENTICATED: &str = "mesh-system:unauthenticated";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

impl User {
    fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|g| g.to_string()).collect() }
    }

    pub(super) fn is_admin(&self) -> bool {
        self.name == ADMIN || self.groups.iter().any(|g| g == ADMIN)
    }
}

pub(super) fn user(api: &Api, headers: &HeaderMap, host: &str, peer: IpAddr) -> Result<User, ApiError> {
    // A page of some site must not act for the one who looks at it.
    let site = headers.get("sec-fetch-site").and_then(|v| v.to_str().ok());
    if site.is_some_and(|s| s == "cross-site") {
        return Err(ApiError::new(403, "Access Denied", "requests from other sites' pages are refused"));
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        return bearer(api, value.to_str().unwrap_or_default());
    }
    if api.options.localhost_is_admin && peer.is_loopback() && is_local_host(host) {
        return Ok(User::new(ADMIN, &[ADMIN, AUTHENTICATED]));
    }
    Ok(User::new(ANONYMOUS, &[UNAUTHENTICATED]))
}

fn bearer(api: &Api, value: &str) -> Result<User, ApiError> {
    let refuse = |why: &str| ApiError::new(401, "Invalid authentication data", why);
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
        _ => return Err(refuse("the Authorization header has to be: Bearer TOKEN")),
    };
    let ring = api.core.key_ring(TokenScope::User);
    let claims: UserClaims =
        ring.verify(token, api.core.clock().now_ms()).map_err(|error| refuse(&error.to_string()))?;
    let mut groups = claims.groups;
    groups.push(AUTHENTICATED.to_string());
    Ok(User { name: claims.name, groups })
}

impl Call<'_> {
    /// `what` ends the sentence "user … cannot …".
    pub(super) fn require_admin(&self, what: &str) -> Result<(), ApiError> {
        if self.user.is_admin() {
            return Ok(());
        }
        let groups = self.user.groups.join(",");
        let detail = format!("user \"{}/{groups}\" cannot {what}", self.user.name);
        Err(ApiError::new(403, "Access Denied", &detail))
    }
}
