//! Resources by path: put, get, delete, lists.

use super::Call;
use super::answer::{Answer, ApiError};
use crate::core::Violation;
use crate::resource::registry::{KindInfo, Support, kind_by_path};
use crate::resource::{Problem, read_as};
use crate::store::{Document, Key, Outcome};
use crate::time::to_rfc3339;
use serde_json::{Value, json};
use std::sync::Arc;

const PAGE_ITEMS: usize = 100;
const PAGE_ITEMS_MAX: usize = 1000;

impl Call<'_> {
    pub(super) async fn item(&self, path: &str, mesh: &str, name: &str) -> Result<Answer, ApiError> {
        let info = self.kind(path, !mesh.is_empty())?;
        let key = Key::new(info.kind, mesh, name);
        match self.method.as_str() {
            "GET" => self.get(info, &key),
            "PUT" => self.put(info, &key).await,
            "DELETE" => self.delete(info, &key).await,
            method => {
                Err(ApiError::new(405, "Method not Allowed", &format!("{method}: a resource takes GET, PUT, DELETE")))
            }
        }
    }

    /// The kind a path names; global kinds aren't under meshes and the others are.
    pub(super) fn kind(&self, path: &str, in_mesh: bool) -> Result<&'static KindInfo, ApiError> {
        self.admitted(path, |k| k.is_mesh_scoped() == in_mesh)
    }

    /// For lists: without a mesh, a kind of a mesh is listed over all meshes.
    pub(super) fn listed_kind(&self, path: &str, mesh: Option<&str>) -> Result<&'static KindInfo, ApiError> {
        self.admitted(path, |k| mesh.is_none() || k.is_mesh_scoped())
    }

    fn admitted(&self, path: &str, fits: impl Fn(&KindInfo) -> bool) -> Result<&'static KindInfo, ApiError> {
        let unknown = || ApiError::new(404, "Not found", &format!("no kind of resource is called {path:?} here"));
        let info = kind_by_path(path).filter(|k| fits(k)).ok_or_else(unknown)?;
        if ["Secret", "GlobalSecret"].contains(&info.kind) {
            self.require_admin(&format!("access resource of type \"{}\"", info.kind))?;
        }
        Ok(info)
    }

    pub(super) fn require_mesh(&self, mesh: &str) -> Result<(), ApiError> {
        if mesh.is_empty() || self.api.core.has_mesh(mesh) {
            return Ok(());
        }
        Err(ApiError::not_found("Failed to retrieve Mesh"))
    }

    fn get(&self, info: &KindInfo, key: &Key) -> Result<Answer, ApiError> {
        let title = "Could not retrieve a resource";
        self.require_mesh(&key.mesh)?;
        if let Some(format) = self.parameter("format").filter(|f| !["", "universal"].contains(f)) {
            let why = format!("{format:?} is not supported here, only universal");
            return Err(ApiError::invalid(title, "Resource is not valid", vec![Violation::new("format", why)]));
        }
        if info.support == Support::ReadOnly {
            return match self.insight_of(info, key) {
                Some(insight) => Ok(Answer::json(200, &insight)),
                None => Err(ApiError::not_found(title)),
            };
        }
        let document = self.api.core.get(key).ok_or_else(|| ApiError::not_found(title))?;
        Ok(Answer::json(200, &self.shown_with_status(&document)))
    }

    async fn put(&self, info: &KindInfo, key: &Key) -> Result<Answer, ApiError> {
        let title = "Could not process a resource";
        if info.support == Support::ReadOnly {
            let why = format!("{} is written by the control plane only", info.kind);
            return Err(ApiError::new(405, "Method not allowed", &why));
        }
        self.require_mesh(&key.mesh)?;
        let text = std::str::from_utf8(&self.body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
        let intake = read_as(text, &key.kind, &key.mesh, &key.name);
        let (errors, warnings): (Vec<Problem>, Vec<Problem>) = intake.problems.into_iter().partition(Problem::is_error);
        if !errors.is_empty() {
            let list = errors.iter().map(|p| Violation::new(p.field.clone(), told(p))).collect();
            return Err(ApiError::invalid(title, "Resource is not valid", list));
        }
        let written = self.api.core.apply(intake.resources).await;
        let outcome = match written.into_iter().next() {
            None => return Err(ApiError::bad_request("the body has no resource")),
            Some(written) => written.outcome.map_err(|refusal| ApiError::refused(title, refusal))?,
        };
        let (status, word) = match outcome {
            Outcome::Created => (201, "created"),
            Outcome::Updated => (200, "updated"),
            Outcome::Unchanged | Outcome::Deleted | Outcome::Absent => (200, "unchanged"),
        };
        let mut body = json!({"outcome": word});
        if let Some(fields) = body.as_object_mut()
            && !warnings.is_empty()
        {
            let lines = warnings.iter().map(|p| match p.field.as_str() {
                "" => told(p),
                field => format!("{field}: {}", told(p)),
            });
            fields.insert("warnings".into(), lines.collect());
        }
        Ok(Answer::json(status, &body))
    }

    async fn delete(&self, info: &KindInfo, key: &Key) -> Result<Answer, ApiError> {
        let title = "Could not delete a resource";
        if info.support == Support::ReadOnly {
            return Err(ApiError::new(405, "Method not allowed", "it is written by the control plane only"));
        }
        self.require_mesh(&key.mesh)?;
        self.api.core.delete(key).await.map_err(|refusal| ApiError::refused(title, refusal))?;
        Ok(Answer::empty(200))
    }

    /// Of one mesh, of all meshes, or global.
    pub(super) fn list(&self, path: &str, mesh: Option<&str>) -> Result<Answer, ApiError> {
        let info = self.listed_kind(path, mesh)?;
        self.require_mesh(mesh.unwrap_or_default())?;
        if info.support == Support::ReadOnly {
            return self.page(self.insights(info, mesh), |v| v.clone());
        }
        self.page(self.matching(info, mesh)?, |d| self.shown_with_status(d))
    }

    /// Documents of a kind that the filters of the query let through, sorted by mesh and name.
    pub(super) fn matching(&self, info: &KindInfo, mesh: Option<&str>) -> Result<Vec<Arc<Document>>, ApiError> {
        let mut found = self.api.core.list(Some(info.kind), mesh);
        if let Some(part) = self.parameter("name") {
            found.retain(|d| d.key.name.contains(part));
        }
        let mut tags = Vec::new();
        for (_, filter) in self.query.iter().filter(|(n, _)| n == "tag") {
            let wrong = || Violation::new("tag", format!("{filter:?} has to be TAG:VALUE"));
            let pair = filter.split_once(':').ok_or_else(wrong);
            tags.push(pair.map_err(|v| ApiError::invalid("Invalid filter", "Resource is not valid", vec![v]))?);
        }
        let gateway = self.parameter("gateway");
        if ["Dataplane", "ExternalService"].contains(&info.kind) && (!tags.is_empty() || gateway.is_some()) {
            found.retain(|d| {
                let body: Value = serde_json::from_str(&d.body).unwrap_or_default();
                tags.iter().all(|(tag, part)| has_tag(&body, tag, part)) && gateway.is_none_or(|g| is_gateway(&body, g))
            });
        }
        Ok(found)
    }

    /// One page of `all`; only what is on it is rendered.
    pub(super) fn page<T>(&self, all: Vec<T>, render: impl Fn(&T) -> Value) -> Result<Answer, ApiError> {
        let refuse = |detail: &str, field: &str, why: String| {
            Err(ApiError::invalid("Could not retrieve resources", detail, vec![Violation::new(field, why)]))
        };
        let size = match self.parameter("size").map(str::parse::<usize>) {
            None => PAGE_ITEMS,
            Some(Ok(size)) if (1..=PAGE_ITEMS_MAX).contains(&size) => size,
            Some(Ok(size)) => {
                let why = format!("invalid page size of {size}. Maximum page size is {PAGE_ITEMS_MAX}");
                return refuse("Invalid page size", "size", why);
            }
            Some(Err(_)) => return refuse("Invalid page size", "size", "Invalid format".into()),
        };
        let offset = match self.parameter("offset").filter(|o| !o.is_empty()).map(str::parse::<usize>) {
            None => 0,
            Some(Ok(offset)) => offset,
            Some(Err(_)) => return refuse("Invalid offset", "offset", "Invalid format".into()),
        };
        let items: Vec<Value> = all.iter().skip(offset).take(size).map(render).collect();
        let after = offset.saturating_add(size);
        let next = (after < all.len()).then(|| self.url_of_page(after));
        Ok(Answer::json(200, &json!({"total": all.len(), "items": items, "next": next})))
    }

    fn url_of_page(&self, offset: usize) -> String {
        let kept = self.query.iter().filter(|(n, _)| n != "offset");
        let pairs: Vec<String> = kept.map(|(n, v)| format!("{}={}", encoded(n), encoded(v))).collect();
        let before = if pairs.is_empty() { String::new() } else { pairs.join("&") + "&" };
        format!("{}?{before}offset={offset}", self.url)
    }
}

/// A stored document as clients get it.
pub(super) fn shown(document: &Document) -> Value {
    let mut body: Value = serde_json::from_str(&document.body).unwrap_or_default();
    if let Some(fields) = body.as_object_mut() {
        fields.insert("creationTime".into(), to_rfc3339(document.created_ms).into());
        fields.insert("modificationTime".into(), to_rfc3339(document.modified_ms).into());
    }
    body
}

fn told(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{} ({hint})", problem.message),
        None => problem.message.clone(),
    }
}

/// Whether some tag set of a dataplane, or that of an external service, has `tag` with `part` in its value.
fn has_tag(body: &Value, tag: &str, part: &str) -> bool {
    let inbounds = body.pointer("/networking/inbound").and_then(Value::as_array).into_iter().flatten();
    let sets = inbounds.filter_map(|i| i.get("tags"));
    let gateway = body.pointer("/networking/gateway/tags");
    let mut all = sets.chain(gateway).chain(body.get("tags"));
    all.any(|set| set.get(tag).and_then(Value::as_str).is_some_and(|value| value.contains(part)))
}

fn is_gateway(body: &Value, wanted: &str) -> bool {
    let gateway = body.pointer("/networking/gateway");
    let builtin = gateway.and_then(|g| g.get("type")).and_then(Value::as_str) == Some("BUILTIN");
    match wanted {
        "true" => gateway.is_some(),
        "false" => gateway.is_none(),
        "builtin" => builtin,
        "delegated" => gateway.is_some() && !builtin,
        _ => true,
    }
}

/// Percent-encoded for a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}
