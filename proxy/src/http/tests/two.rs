//! HTTP/2 clients and endpoints, in all four combinations with HTTP/1.

use super::*;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

type Client = SendRequest<Full<Bytes>>;

/// The bench and an HTTP/2 client on its connection.
async fn client(settings: Settings, decide: Box<Decide>) -> (Bench, Client) {
    let mut bench = Bench::new(settings, decide);
    let (unused, _) = duplex(1);
    let io = std::mem::replace(&mut bench.client, unused);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::task::spawn_local(connection);
    (bench, sender)
}

fn get(path: &str) -> http::request::Builder {
    Request::builder().uri(format!("http://a.example{path}"))
}

fn empty() -> Full<Bytes> {
    Full::default()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(patient(response.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

fn to_two() -> Box<Decide> {
    Box::new(|_| Decision { action: Action::Forward(Plan { h2: true, ..plan() }), filters: None })
}

/// Plays an endpoint that speaks HTTP/2: echoes the body and says in trailers what it saw.
fn echo(io: DuplexStream) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let seen = format!("{} {} {:?}", request.method(), request.uri(), request.version());
        let te = request.headers().get("te").cloned();
        let body = request.into_body().collect().await?.to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [Frame::data(body), Frame::trailers(trailers)].map(Ok::<_, hyper::Error>);
        let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)));
        response.headers_mut().insert("x-seen", HeaderValue::from_str(&seen).unwrap());
        if let Some(te) = te {
            response.headers_mut().insert("x-te", te);
        }
        Ok::<_, hyper::Error>(response)
    });
    let connection =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service);
    tokio::task::spawn_local(connection);
}

#[tokio::test(flavor = "local")]
async fn two_to_one_is_translated_and_its_connection_reused() {
    let (mut bench, mut client) = client(Settings::sidecar(), to_endpoint(Filters::default())).await;
    let mut endpoint = None;
    for n in 0..2 {
        let request =
            get("/p?q").header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers").body(empty());
        let answered = tokio::task::spawn_local(client.send_request(request.unwrap()));
        let mut io = match endpoint.take() {
            Some(io) => io,
            None => bench.endpoint().await,
        };
        expect(&mut io, "GET /p?q HTTP/1.1\r\nhost: a.example\r\ncookie: a=1; b=2\r\n\r\n").await;
        say(
            &mut io,
            "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let response = patient(answered).await.unwrap().unwrap();
        assert_eq!((response.status(), response.headers().get("x-hop")), (StatusCode::OK, None), "{n}");
        assert_eq!(text(response).await, "ok");
        while bench.pools.idle_count() == 0 {
            tokio::task::yield_now().await;
        }
        endpoint = Some(io);
    }
    assert_eq!(bench.outcomes(), [(200, None); 2]);
    assert!(bench.dialled.try_recv().is_err());
}

#[tokio::test(flavor = "local")]
async fn two_to_one_bodies_and_trailers_pass() {
    let (mut bench, mut client) = client(Settings::sidecar(), to_endpoint(Filters::default())).await;
    let request = Request::post("http://a/").body(Full::from("hello")).unwrap();
    let answered = tokio::task::spawn_local(client.send_request(request));
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
    say(
        &mut endpoint,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 3\r\n\r\n",
    )
    .await;
    let collected = patient(patient(answered).await.unwrap().unwrap().into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "3");
    assert_eq!(collected.to_bytes(), "abc");
}

#[tokio::test(flavor = "local")]
async fn two_to_two_passes_grpc_trailers_on_one_shared_connection() {
    let (mut bench, mut client) = client(Settings::sidecar(), to_two()).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let request = Request::post("http://a/s/m").header("te", "trailers").body(Full::from("ping")).unwrap();
        answers.push(tokio::task::spawn_local(client.send_request(request)));
    }
    echo(bench.endpoint().await);
    for answer in answers {
        let response = patient(answer).await.unwrap().unwrap();
        assert_eq!(response.headers()["x-seen"], "POST http://a/s/m HTTP/2.0");
        assert_eq!(response.headers()["x-te"], "trailers");
        let collected = patient(response.into_body().collect()).await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "ping");
    }
    assert!(bench.dialled.try_recv().is_err());
    assert_eq!(bench.outcomes(), [(200, None); 3]);
}

#[tokio::test(flavor = "local")]
async fn one_to_two_is_bridged() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    for n in 0..2 {
        bench.send("POST /p?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nping").await;
        if n == 0 {
            echo(bench.endpoint().await);
        }
        let head = head(&mut bench.client).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("x-seen: POST http://a.example/p?q HTTP/2.0\r\n"), "{head}");
        expect(&mut bench.client, "4\r\nping\r\n0\r\ngrpc-status: 0\r\n\r\n").await;
    }
}

#[tokio::test(flavor = "local")]
async fn an_answer_cut_in_the_middle_resets_the_stream() {
    let (mut bench, mut client) = client(Settings::sidecar(), to_endpoint(Filters::default())).await;
    let answered = tokio::task::spawn_local(client.send_request(get("/").body(empty()).unwrap()));
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
    drop(endpoint);
    // The reset may overtake the head.
    if let Ok(response) = patient(answered).await.unwrap() {
        assert!(patient(response.into_body().collect()).await.is_err());
    }
    assert_eq!(bench.outcomes(), [(200, Some(Reason::UpstreamReset))]);
}

#[tokio::test(flavor = "local")]
async fn failures_map_to_the_same_statuses_as_in_http_1() {
    let (mut bench, mut client) = client(Settings::sidecar(), to_endpoint(Filters::default())).await;
    bench.fake.failures.lock().unwrap().extend([Reason::ConnectFailed; 3]);
    let response = patient(client.send_request(get("/").body(empty()).unwrap())).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(text(response).await, "upstream connect error\nendpoint 2 can't be reached");
    let answered = tokio::task::spawn_local(client.send_request(get("/").body(empty()).unwrap()));
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(patient(answered).await.unwrap().unwrap().status(), 502);
    assert_eq!(bench.outcomes(), [(503, Some(Reason::ConnectFailed)), (502, Some(Reason::UpstreamProtocol))]);
}

#[tokio::test(flavor = "local")]
async fn the_edge_checks_streams_like_requests() {
    let (_bench, mut client) = client(Settings::gateway(true), to_endpoint(Filters::default())).await;
    let mut status = async |request: http::request::Builder| {
        let response = patient(client.send_request(request.body(empty()).unwrap())).await.unwrap();
        (response.status().as_u16(), response.headers().get("location").cloned())
    };
    assert_eq!(status(get("/").header("a_b", "1")).await.0, 400);
    assert_eq!(status(get("/").header("host", "other.example")).await.0, 400);
    assert_eq!(status(get("/%00")).await.0, 400);
    assert_eq!(status(get("/a%2Fb?c")).await, (307, Some(HeaderValue::from_static("/a/b?c"))));
}

#[tokio::test(flavor = "local")]
async fn a_silent_endpoint_is_504_over_http_2() {
    let decide: Box<Decide> = Box::new(|request| {
        let timeouts = Timeouts { request_ms: 30, stream_idle_ms: 0 };
        let plan = Plan { timeouts, h2: request.path == "/two", ..plan() };
        Decision { action: Action::Forward(plan), filters: None }
    });
    let (mut bench, mut client) = client(Settings::sidecar(), decide).await;
    let response = patient(client.send_request(get("/one").body(empty()).unwrap())).await.unwrap();
    assert_eq!(response.status(), 504);
    let _held = bench.endpoint().await;
    let answered = tokio::task::spawn_local(client.send_request(get("/two").body(empty()).unwrap()));
    let io = bench.endpoint().await;
    let silent =
        service_fn(|_: Request<Incoming>| std::future::pending::<Result<Response<Full<Bytes>>, hyper::Error>>());
    let connection =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), silent);
    tokio::task::spawn_local(connection);
    assert_eq!(patient(answered).await.unwrap().unwrap().status(), 504);
}

#[tokio::test(flavor = "local")]
async fn draining_says_goodbye_and_finishes() {
    let (mut bench, mut client) = client(Settings::sidecar(), to_endpoint(Filters::default())).await;
    let answered = tokio::task::spawn_local(client.send_request(get("/").body(empty()).unwrap()));
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    bench.drain.send(true).unwrap();
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
    assert_eq!(text(patient(answered).await.unwrap().unwrap()).await, "a");
    assert_eq!(bench.end().await, End::Closed);
}
