//! HTTP to the control plane's REST API. Knows URLs and statuses, not resources.

use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// An answer larger than this is refused.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Where the API is and how we are known there.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) ca_pem: Option<String>,
    pub(crate) skip_verify: bool,
    pub(crate) timeout: Duration,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.body).map_err(|e| format!("the control plane's answer isn't JSON: {e}"))
    }

    /// Kuma's error object as kumactl prints it: title, detail, then a line a field.
    pub(crate) fn problem(&self) -> String {
        let Ok(object) = serde_json::from_str::<Value>(&self.body) else {
            return format!("HTTP status {}: {}", self.status, self.body.trim());
        };
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut lines = match (text("title"), text("detail")) {
            (title, detail) if detail.is_empty() => title,
            (title, detail) => format!("{title} ({detail})"),
        };
        let fields = object.get("invalid_parameters").and_then(Value::as_array).into_iter().flatten();
        for field in fields {
            let part = |key: &str| field.get(key).and_then(Value::as_str).unwrap_or_default();
            lines.push_str(&format!("\n* {}: {}", part("field"), part("reason")));
        }
        lines
    }
}

impl Api {
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, String> {
        let work = self.exchange(method, path, body);
        match tokio::time::timeout(self.timeout, work).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}: no answer within {:?}", self.url, self.timeout)),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, String> {
        let uri: Uri = format!("{}{path}", self.url.trim_end_matches('/'))
            .parse()
            .map_err(|e| format!("{}{path}: not a URL: {e}", self.url))?;
        let host = uri.host().ok_or_else(|| format!("{}: no host in the URL", self.url))?.to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tcp = TcpStream::connect((bare.as_str(), port)).await.map_err(|e| {
            format!("no control plane at {}: {e}; start one with `weir cp run` or `weir up`, or name another with `config control-planes add`", self.url)
        })?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
            .header("host", uri.authority().map_or("", |a| a.as_str()))
            .header("user-agent", concat!("kumactl/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| e.to_string())?;
        if !secure {
            return talk(tcp, request).await;
        }
        let config = proxy::tls_client(self.ca_pem.as_deref(), self.skip_verify)?;
        let name = ServerName::try_from(bare).map_err(|e| e.to_string())?;
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        talk(tls.map_err(|e| format!("{}: TLS: {e}", self.url))?, request).await
    }
}

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
    Ok(Answer { status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
}
