//! Issuing tokens.

use super::Call;
use super::answer::{Answer, ApiError};
use crate::core::Violation;
use crate::identity::{DataplaneClaims, TokenError, TokenScope, UserClaims, ZoneClaims};
use crate::time::parse_go_duration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Without `validFor`: ten years.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DataplaneRequest {
    name: String,
    mesh: String,
    tags: Option<BTreeMap<String, Vec<String>>>,
    #[serde(rename = "type")]
    kind: String,
    valid_for: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ZoneRequest {
    zone: String,
    scope: Option<Vec<String>>,
    valid_for: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct UserRequest {
    name: String,
    groups: Option<Vec<String>>,
    valid_for: String,
}

impl Call<'_> {
    pub(super) async fn issue_token(&self, kind: &str) -> Result<Answer, ApiError> {
        self.require_admin(&format!("generate {kind} token"))?;
        match kind {
            "dataplane" => self.dataplane_token().await,
            "zone" => self.zone_token().await,
            "user" => self.user_token().await,
            _ => Err(ApiError::new(404, "Not found", "tokens are for dataplane, zone or user")),
        }
    }

    async fn dataplane_token(&self) -> Result<Answer, ApiError> {
        let asked: DataplaneRequest = self.asked()?;
        let mut wrong = Vec::new();
        if asked.mesh.is_empty() {
            wrong.push(Violation::new("mesh", "cannot be empty"));
        }
        if !["", "dataplane", "ingress", "egress"].contains(&asked.kind.as_str()) {
            wrong.push(Violation::new("type", format!("{:?} is not a type of proxy", asked.kind)));
        }
        let lifetime = lifetime(&asked.valid_for, &mut wrong);
        check(wrong)?;
        self.require_mesh(&asked.mesh)?;
        let scope = TokenScope::Dataplane { mesh: asked.mesh.clone() };
        let tags = asked.tags.unwrap_or_default();
        let claims = DataplaneClaims { name: asked.name, mesh: asked.mesh, tags, kind: asked.kind };
        self.sign(scope, claims, lifetime).await
    }

    async fn zone_token(&self) -> Result<Answer, ApiError> {
        let asked: ZoneRequest = self.asked()?;
        let mut wrong = Vec::new();
        if asked.scope.is_none() {
            wrong.push(Violation::new("scope", "cannot be empty"));
        }
        let lifetime = lifetime(&asked.valid_for, &mut wrong);
        check(wrong)?;
        let claims = ZoneClaims { zone: asked.zone, scope: asked.scope.unwrap_or_default() };
        self.sign(TokenScope::Zone, claims, lifetime).await
    }

    async fn user_token(&self) -> Result<Answer, ApiError> {
        let asked: UserRequest = self.asked()?;
        let mut wrong = Vec::new();
        for (field, value) in [("name", &asked.name), ("validFor", &asked.valid_for)] {
            if value.is_empty() {
                wrong.push(Violation::new(field, "cannot be empty"));
            }
        }
        let lifetime = lifetime(&asked.valid_for, &mut wrong);
        check(wrong)?;
        let claims = UserClaims { name: asked.name, groups: asked.groups.unwrap_or_default() };
        self.sign(TokenScope::User, claims, lifetime).await
    }

    fn asked<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body)
            .map_err(|e| ApiError::bad_request(&format!("the body is not the JSON asked for: {e}")))
    }

    /// Signing takes a millisecond or two of computing: not on the thread that serves others.
    async fn sign<C>(&self, scope: TokenScope, claims: C, lifetime: Duration) -> Result<Answer, ApiError>
    where
        C: Serialize + Send + 'static,
    {
        let core = self.api.core.clone();
        let now_ms = core.clock().now_ms();
        let signed = tokio::task::spawn_blocking(move || core.key_ring(scope).issue(&claims, lifetime, now_ms)).await;
        match signed {
            Ok(Ok(token)) => Ok(Answer::text(200, token)),
            Ok(Err(error @ TokenError::NoSigningKey { .. })) => {
                Err(ApiError::new(404, "Signing Key not found", &error.to_string()))
            }
            Ok(Err(_)) | Err(_) => Err(ApiError::new(500, "Could not issue a token", "Internal Server Error")),
        }
    }
}

fn lifetime(text: &str, wrong: &mut Vec<Violation>) -> Duration {
    if text.is_empty() {
        return LIFETIME;
    }
    match parse_go_duration(text) {
        Ok(lifetime) if !lifetime.is_zero() => lifetime,
        Ok(_) => LIFETIME,
        Err(why) => {
            wrong.push(Violation::new("validFor", format!("is invalid: {why}")));
            LIFETIME
        }
    }
}

fn check(wrong: Vec<Violation>) -> Result<(), ApiError> {
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid("Invalid request", "Resource is not valid", wrong)),
    }
}
