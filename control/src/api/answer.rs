//! Answers and errors in the shape that Kuma's clients read.

use crate::core::{Refusal, Violation};
use crate::store::StoreError;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};

#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Answer {
    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self { status, content_type: "application/json", body: value.to_string() }
    }

    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self::text(status, "")
    }

    pub(super) fn into_response(self, head: bool) -> Response<Full<Bytes>> {
        let length = self.body.len();
        let body = if head { Bytes::new() } else { Bytes::from(self.body) };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(self.content_type));
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        response
    }
}

#[derive(Debug)]
pub(super) struct ApiError {
    status: u16,
    title: String,
    detail: String,
    violations: Vec<Violation>,
}

impl ApiError {
    pub(super) fn new(status: u16, title: &str, detail: &str) -> Self {
        Self { status, title: title.into(), detail: detail.into(), violations: Vec::new() }
    }

    pub(super) fn bad_request(detail: &str) -> Self {
        Self::new(400, "Bad Request", detail)
    }

    pub(super) fn not_found(title: &str) -> Self {
        Self::new(404, title, "Not found")
    }

    pub(super) fn invalid(title: &str, detail: &str, violations: Vec<Violation>) -> Self {
        Self { violations, ..Self::new(400, title, detail) }
    }

    /// A write that `Core` refused.
    pub(super) fn refused(title: &str, refusal: Refusal) -> Self {
        match refusal {
            Refusal::MeshNotFound { .. } => Self::not_found("Failed to retrieve Mesh"),
            Refusal::NotFound { .. } => Self::not_found(title),
            Refusal::ReadOnly { .. } => Self::new(405, "Method not allowed", &refusal.to_string()),
            Refusal::Invalid(list) => Self::invalid(title, "Resource is not valid", list),
            Refusal::Store(error) => Self::stored(title, &error),
            Refusal::Failed(why) => {
                tracing::error!(title, why, "request failed");
                Self::new(500, title, "Internal Server Error")
            }
        }
    }

    fn stored(title: &str, error: &StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => Self::new(409, "Conflict", &error.to_string()),
            StoreError::TooLarge { .. } | StoreError::TooMany { .. } => {
                Self::new(413, "Content Too Large", &error.to_string())
            }
            // Not the client's fault, and worth another try.
            StoreError::Full { .. } => Self::new(507, title, &error.to_string()),
            StoreError::Io { .. } | StoreError::Locked { .. } | StoreError::Schema { .. } | StoreError::Closed => {
                Self::new(503, title, &error.to_string())
            }
        }
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut body = json!({
            "type": "/std-errors",
            "status": self.status,
            "title": self.title,
            "detail": self.detail,
            "details": self.detail,
        });
        if let Some(fields) = body.as_object_mut()
            && !self.violations.is_empty()
        {
            let list = |what: &str| {
                let entry = |v: &Violation| json!({"field": v.field, what: v.message});
                Value::Array(self.violations.iter().map(entry).collect())
            };
            fields.insert("invalid_parameters".into(), list("reason"));
            fields.insert("causes".into(), list("message"));
        }
        Answer { content_type: "application/problem+json", ..Answer::json(self.status, &body) }
    }
}
