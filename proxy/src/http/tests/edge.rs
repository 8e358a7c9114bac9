//! What a gateway does more than a sidecar, and answers without an endpoint.

use super::*;
use snapshot::HeaderOps;

fn gateway() -> Bench {
    Bench::new(Settings::gateway(true), to_endpoint(Filters::default()))
}

#[tokio::test(flavor = "local")]
async fn forwarding_headers_are_the_gateways_own() {
    let mut bench = gateway();
    bench
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: gopher\r\n\
             X-Request-Id: mine\r\nX-Envoy-Retry-On: 5xx\r\nX-Forwarded-Client-Cert: me\r\nX-Kuma-Tags: &a=b&\r\nCookie: c\r\n\r\n",
        )
        .await;
    let mut endpoint = bench.endpoint().await;
    let sent = head(&mut endpoint).await;
    let start = "GET / HTTP/1.1\r\nhost: a\r\ncookie: c\r\nx-forwarded-for: 1.1.1.1,2.2.2.2,192.0.2.7\r\nx-forwarded-proto: https\r\nx-request-id: ";
    assert!(sent.starts_with(start), "{sent}");
    assert_eq!(sent.len(), start.len() + 36 + 4, "{sent}");
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nServer: secret/1.2\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\nserver: weir\r\ncontent-length: 0\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn underscores_are_refused_at_the_edge_only() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\na_b: 1\r\n\r\n";
    let mut bench = gateway();
    bench.send(request).await;
    assert!(rest(&mut bench.client).await.starts_with("HTTP/1.1 400 "));
    let mut bench = Bench::sidecar();
    bench.send(request).await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET / HTTP/1.1\r\nhost: a\r\na_b: 1\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn what_is_matched_is_what_is_forwarded() {
    let mut bench = gateway();
    bench.send("GET //a/../%62?x=%2F/.. HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET /b?x=%2F/.. HTTP/1.1\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn escaped_slashes_are_redirected_at_the_edge() {
    let mut bench = gateway();
    bench.send("GET /a%2Fb?q=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let expected = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /a/b?q=1\r\nserver: weir\r\ncontent-length: 0\r\n\r\n";
    expect(&mut bench.client, expected).await;
    assert!(bench.dialled.try_recv().is_err());
}

#[tokio::test(flavor = "local")]
async fn denied_requests_say_so_and_keep_the_connection() {
    let mut bench =
        Bench::new(Settings::sidecar(), Box::new(|_| Decision::refuse(Reason::Denied, "RBAC: access denied")));
    for _ in 0..2 {
        bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let expected =
            "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 19\r\n\r\nRBAC: access denied";
        expect(&mut bench.client, expected).await;
    }
    bench.send("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(rest(&mut bench.client).await.ends_with("content-length: 19\r\nconnection: close\r\n\r\n"));
    assert_eq!(bench.outcomes(), [(403, Some(Reason::Denied)); 3]);
}

#[tokio::test(flavor = "local")]
async fn an_answer_to_an_unread_body_ends_the_connection() {
    let mut bench = Bench::new(Settings::sidecar(), Box::new(|_| Decision::refuse(Reason::NoRoute, "")));
    bench
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(
        rest(&mut bench.client).await,
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
}

#[tokio::test(flavor = "local")]
async fn redirects_carry_the_routes_response_headers() {
    let decide: Box<Decide> = Box::new(|_| {
        let response =
            HeaderOps { add: vec![("strict-transport-security".into(), "max-age=1".into())], ..HeaderOps::default() };
        let filters = Some(Arc::new(Filters { response, ..Filters::default() }));
        Decision { action: Action::Redirect { status: 302, location: "https://a/\r\nb".into() }, filters }
    });
    let mut bench = Bench::new(Settings::sidecar(), decide);
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let expected = "HTTP/1.1 302 Found\r\nlocation: https://a/%0D%0Ab\r\nstrict-transport-security: max-age=1\r\ncontent-length: 0\r\n\r\n";
    expect(&mut bench.client, expected).await;
}

#[tokio::test(flavor = "local")]
async fn strangers_are_not_told_addresses() {
    let mut bench = gateway();
    bench.fake.failures.lock().unwrap().push_back(Reason::UpstreamProtocol);
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let got = head(&mut bench.client).await;
    assert!(got.contains("content-length: 23\r\n"), "{got}");
    expect(&mut bench.client, "upstream protocol error").await;
}
