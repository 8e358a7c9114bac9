//! What overviews show of a connected proxy, in Kuma's JSON (spec/zones.md §3.4): subscriptions with their counters, the
//! certificate, and what of its configuration couldn't be compiled or was refused. It must not know frames or tables.

use super::presence;
use crate::compile::ProxyKey;
use crate::core::Core;
use crate::store::Key;
use crate::time::to_rfc3339;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The newest of a proxy's streams are remembered.
const SUBSCRIPTIONS_MAX: usize = 10;
/// Shown of one proxy.
pub(super) const PROBLEMS_MAX: usize = 100;

/// One stream's part of its proxy's insight.
pub struct Insight {
    core: Arc<Core>,
    key: Key,
    id: String,
    version: String,
    connected_ms: u64,
    updated_ms: Option<u64>,
    disconnected_ms: Option<u64>,
    sent: u64,
    acked: u64,
    rejected: u64,
    problems: Vec<String>,
    reasons: Vec<String>,
}

impl Insight {
    pub fn connected(core: Arc<Core>, proxy: &ProxyKey, stream: u64, version: &str) -> Self {
        let connected_ms = core.clock().now_ms();
        let version = version.chars().filter(|c| !c.is_control()).take(64).collect();
        let new = Self {
            core,
            key: presence::key(proxy),
            id: format!("{connected_ms}-{stream}"),
            version,
            connected_ms,
            updated_ms: None,
            disconnected_ms: None,
            sent: 0,
            acked: 0,
            rejected: 0,
            problems: Vec::new(),
            reasons: Vec::new(),
        };
        new.show();
        new
    }

    pub fn sent(&mut self) {
        self.sent += 1;
        self.updated_ms = Some(self.core.clock().now_ms());
        self.show();
    }

    pub fn acked(&mut self) {
        self.acked += 1;
        self.reasons.clear();
        self.show();
    }

    pub fn rejected(&mut self, reasons: &[String]) {
        self.rejected += 1;
        self.reasons = reasons.iter().take(PROBLEMS_MAX).cloned().collect();
        self.show();
    }

    /// What couldn't be compiled for this proxy now; those that weren't there before are returned, for the log.
    pub fn problems(&mut self, now: Vec<String>) -> Vec<String> {
        if self.problems == now {
            return Vec::new();
        }
        let new = now.iter().filter(|p| !self.problems.contains(p)).cloned().collect();
        self.problems = now;
        self.show();
        new
    }

    pub fn certified(&self, backend: &str, not_after_ms: u64) {
        let now = to_rfc3339(self.core.clock().now_ms());
        self.core.update_insight(&self.key, |insight| {
            let before = insight.pointer("/mTLS/certificateRegenerations").and_then(Value::as_u64).unwrap_or(0);
            let mtls = json!({
                "certificateExpirationTime": to_rfc3339(not_after_ms),
                "lastCertificateRegeneration": now,
                "certificateRegenerations": before + 1,
                "issuedBackend": backend,
                "supportedBackends": [backend],
            });
            if let Some(fields) = object(insight) {
                fields.insert("mTLS".into(), mtls);
            }
        });
    }

    pub fn disconnected(&mut self) {
        self.disconnected_ms = Some(self.core.clock().now_ms());
        self.show();
    }

    fn show(&self) {
        let subscription = self.subscription();
        self.core.update_insight(&self.key, |insight| {
            let Some(insight) = object(insight) else { return };
            let all = insight.entry("subscriptions").or_insert_with(|| json!([]));
            let Some(all) = all.as_array_mut() else { return };
            let own = all.iter().position(|s| s.get("id").and_then(Value::as_str) == Some(&self.id));
            let is_newest = own.is_none_or(|at| at + 1 == all.len());
            match own.and_then(|at| all.get_mut(at)) {
                Some(own) => *own = subscription,
                None => all.push(subscription),
            }
            let surplus = all.len().saturating_sub(SUBSCRIPTIONS_MAX);
            all.drain(..surplus);
            if !is_newest {
                return;
            }
            for (name, texts) in [("problems", &self.problems), ("rejected", &self.reasons)] {
                match texts.is_empty() {
                    true => drop(insight.remove(name)),
                    false => drop(insight.insert(name.into(), texts.iter().take(PROBLEMS_MAX).cloned().collect())),
                }
            }
        });
    }

    fn subscription(&self) -> Value {
        let mut status = json!({
            "total": {
                "responsesSent": self.sent.to_string(),
                "responsesAcknowledged": self.acked.to_string(),
                "responsesRejected": self.rejected.to_string(),
            },
            "cds": {}, "eds": {}, "lds": {}, "rds": {},
        });
        time(&mut status, "lastUpdateTime", self.updated_ms);
        let mut whole = json!({
            "id": self.id,
            "controlPlaneInstanceId": self.core.cluster_id(),
            "connectTime": to_rfc3339(self.connected_ms),
            "status": status,
            "version": {"kumaDp": {"version": self.version, "kumaCpCompatible": true}, "envoy": {"version": self.version}},
        });
        time(&mut whole, "disconnectTime", self.disconnected_ms);
        whole
    }
}

fn time(value: &mut Value, name: &str, ms: Option<u64>) {
    if let (Some(fields), Some(ms)) = (value.as_object_mut(), ms) {
        fields.insert(name.into(), to_rfc3339(ms).into());
    }
}

/// An absent insight is null.
fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut()
}
