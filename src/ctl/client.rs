//! HTTP to the control plane's REST API. Knows URLs and statuses, not resources.

use crate::failure::Failure;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use proxy::tls::{ExternalVerifier, Roots};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use std::fmt::Write as _;
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
    pub(crate) trust: Trust,
    /// PEM of our certificate and its key.
    pub(crate) client: Option<(String, String)>,
    pub(crate) timeout: Duration,
    /// What to do when nobody listens there.
    pub(crate) remedy: &'static str,
}

/// Which servers are believed to be the control plane.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Those with a certificate of the machine's own roots.
    System,
    /// Those with a certificate of this PEM's roots.
    Pem(String),
    Anybody,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.body).map_err(|e| format!("the control plane's answer isn't JSON: {e}"))
    }

    pub(crate) fn refusal(&self) -> Failure {
        Failure::failed(self.problem())
    }

    /// Kuma's error object as kumactl prints it: title, detail, then a line a field.
    fn problem(&self) -> String {
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
            let _ = write!(lines, "\n* {}: {}", part("field"), part("reason"));
        }
        lines + self.what_next(&text("title"))
    }

    fn what_next(&self, title: &str) -> &'static str {
        match self.status {
            StatusCode::NOT_FOUND if title == "Failed to retrieve Mesh" => {
                "; apply that mesh first, or name another (`weir get meshes` lists them)"
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; `weir config control-planes add --auth-type tokens --auth-conf token=…` gives the commands a user token"
            }
            _ => "",
        }
    }
}

impl Api {
    /// One that is known by its URL only.
    pub(crate) fn new(url: impl Into<String>, timeout: Duration) -> Self {
        Self { url: url.into(), headers: Vec::new(), trust: Trust::System, client: None, timeout, remedy: "" }
    }

    /// # Errors
    /// No answer at all; an answer that refuses is an `Answer`.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, Failure> {
        Line::new(self).send(method, path, body).await
    }

    fn request(&self, method: Method, path: &str, body: Option<String>) -> Result<Request<Full<Bytes>>, String> {
        let uri = self.uri(path)?;
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
        request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| e.to_string())
    }

    fn uri(&self, path: &str) -> Result<Uri, String> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        url.parse().map_err(|e| format!("{url} isn't a URL: {e}"))
    }

    async fn connect(&self) -> Result<Sender, String> {
        let uri = self.uri("")?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("the address of a control plane begins with http:// or https://".into()),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await;
        let tcp = tcp.map_err(|e| format!("can't connect: {e}{}", self.remedy))?;
        // Requests are written whole; none waits for the acknowledgement of one before.
        let _ = tcp.set_nodelay(true);
        if !secure {
            return shake_hands(tcp).await;
        }
        let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
        let tls = tokio_rustls::TlsConnector::from(self.tls()?).connect(name, tcp).await;
        let remedy = match self.trust {
            Trust::System => "; name the CA that signed it with --ca-cert-file, or accept any with --skip-verify",
            Trust::Pem(_) | Trust::Anybody => "",
        };
        shake_hands(tls.map_err(|e| format!("TLS: {}{remedy}", proxy::tls::explain(&e)))?).await
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let roots = match &self.trust {
            Trust::Anybody => None,
            Trust::Pem(pem) => Some(Arc::new(Roots::parse("", pem)?)),
            Trust::System => Some(Arc::new(Roots::system()?)),
        };
        let provider = proxy::tls::provider();
        let key = match &self.client {
            None => None,
            Some((certificate, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
                let chain = chain.map_err(|e| format!("the client certificate: {e}"))?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| format!("the client key: {e}"))?;
                let both = CertifiedKey::from_der(chain, key, &provider);
                Some(Arc::new(both.map_err(|e| format!("the client certificate and its key: {e}"))?))
            }
        };
        let verifier = ExternalVerifier::new(&provider, roots, true);
        proxy::tls::external_client(verifier, key, vec![b"http/1.1".to_vec()])
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn shake_hands<S>(stream: S) -> Result<Sender, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One connection for many requests, opened when it is needed.
pub(crate) struct Line<'a> {
    api: &'a Api,
    sender: Option<Sender>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(api: &'a Api) -> Self {
        Self { api, sender: None }
    }

    /// # Errors
    /// No answer at all; an answer that refuses is an `Answer`.
    pub(crate) async fn send(&mut self, method: Method, path: &str, body: Option<String>) -> Result<Answer, Failure> {
        let (url, timeout) = (&self.api.url, self.api.timeout);
        match tokio::time::timeout(timeout, self.exchange(method, path, body)).await {
            Ok(answer) => answer.map_err(|e| Failure::failed(format!("{url}: {e}"))),
            Err(_) => Err(Failure::failed(format!("{url}: no answer within {timeout:?}"))),
        }
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Option<String>) -> Result<Answer, String> {
        let request = self.api.request(method, path, body)?;
        // A server may have closed a connection that was idle: nothing was sent on it then.
        let kept = match self.sender.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.api.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        self.sender = Some(sender);
        Ok(Answer { status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    }
}
