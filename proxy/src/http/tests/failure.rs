//! Clients and endpoints that break, stall or vanish.

use super::*;

#[tokio::test(flavor = "local")]
async fn what_the_client_breaks_is_its_fault_and_ends_its_connection() {
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ];
    for (request, status) in cases {
        let mut bench = Bench::sidecar();
        bench.send(request).await;
        bench.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let got = rest(&mut bench.client).await;
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")) && got.contains("connection: close\r\n"),
            "{request}: {got}"
        );
        assert_eq!(got.matches("HTTP/1.1").count() - usize::from(status == 505), 1, "{got}");
        assert!(bench.dialled.try_recv().is_err());
        assert_eq!(bench.outcomes().len(), 1);
    }
}

#[tokio::test(flavor = "local")]
async fn a_broken_chunk_in_a_request_is_400_not_502() {
    let mut bench = Bench::sidecar();
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    bench.send("zz\r\n").await;
    assert!(rest(&mut bench.client).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(rest(&mut endpoint).await, "");
    assert_eq!(bench.outcomes(), [(400, Some(Reason::DownstreamProtocol))]);
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_breaks_http_is_502_and_not_reused() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA b\r\n\r\n",
        "HTTP/1.1 200 OK\nA: b\r\n\r\n",
        "HTTP/1.1 999 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
    ];
    for answer in answers {
        let mut bench = Bench::sidecar();
        bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut endpoint = bench.endpoint().await;
        head(&mut endpoint).await;
        say(&mut endpoint, answer).await;
        expect(&mut bench.client, "HTTP/1.1 502 Bad Gateway\r\n").await;
        assert_eq!(rest(&mut endpoint).await, "", "{answer}");
        assert_eq!(bench.pools.idle_count(), 0);
        assert_eq!(bench.outcomes(), [(502, Some(Reason::UpstreamProtocol))]);
    }
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_says_more_than_its_answer_is_not_reused() {
    let mut bench = Bench::sidecar();
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(
        &mut endpoint,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    )
    .await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut other = bench.endpoint().await;
    head(&mut other).await;

    // The same when it speaks later, while its connection is idle.
    let mut bench = Bench::sidecar();
    let mut endpoint = bench.warm_up().await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await;
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut other = bench.endpoint().await;
    head(&mut other).await;
}

#[tokio::test(flavor = "local")]
async fn a_refused_connection_is_503_once_no_endpoint_is_left_to_try() {
    let mut bench = Bench::sidecar();
    bench.fake.failures.lock().unwrap().extend([Reason::ConnectFailed; 3]);
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let expected = "upstream connect error\nendpoint 2 can't be reached";
    let got = head(&mut bench.client).await;
    assert!(got.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{got}");
    expect(&mut bench.client, expected).await;
    // The client's connection survives, and so does the next request.
    bench.fake.failures.lock().unwrap().push_back(Reason::ConnectFailed);
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
}

#[tokio::test(flavor = "local")]
async fn a_reset_before_the_answer_is_503() {
    let mut bench = Bench::sidecar();
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    drop(endpoint);
    expect(&mut bench.client, "HTTP/1.1 503 Service Unavailable\r\n").await;
    assert_eq!(bench.outcomes(), [(503, Some(Reason::UpstreamReset))]);
    assert!(bench.dialled.try_recv().is_err());
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_dies_is_replaced_once_for_idempotent_requests() {
    let mut bench = Bench::sidecar();
    let mut endpoint = bench.warm_up().await;
    bench.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
    head(&mut endpoint).await;
    drop(endpoint);
    let mut fresh = bench.endpoint().await;
    expect(&mut fresh, "GET /again HTTP/1.1\r\nhost: a\r\n\r\n").await;
    say(&mut fresh, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2").await;

    bench.send("POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    head(&mut fresh).await;
    drop(fresh);
    expect(&mut bench.client, "HTTP/1.1 503 Service Unavailable\r\n").await;
    assert!(bench.dialled.try_recv().is_err());
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_dies_with_its_endpoint_is_replaced_by_one_to_another() {
    let mut bench = Bench::sidecar();
    let mut endpoint = bench.warm_up().await;
    bench.fake.failures.lock().unwrap().push_back(Reason::ConnectFailed);
    bench.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
    head(&mut endpoint).await;
    drop(endpoint);
    let mut other = bench.endpoint().await;
    expect(&mut other, "GET /again HTTP/1.1\r\nhost: a\r\n\r\n").await;
    say(&mut other, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2").await;
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_was_closed_meanwhile_is_not_used() {
    let mut bench = Bench::sidecar();
    drop(bench.warm_up().await);
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    let mut fresh = bench.endpoint().await;
    head(&mut fresh).await;
}

#[tokio::test(flavor = "local")]
async fn an_answer_cut_in_the_middle_never_looks_complete() {
    let cases = ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"];
    for answer in cases {
        let mut bench = Bench::sidecar();
        bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut endpoint = bench.endpoint().await;
        head(&mut endpoint).await;
        say(&mut endpoint, &format!("HTTP/1.1 200 OK\r\n{answer}")).await;
        drop(endpoint);
        let got = rest(&mut bench.client).await;
        assert!(got.contains("abc") && !got.contains("0\r\n\r\n"), "{got}");
        assert_eq!(bench.outcomes(), [(200, Some(Reason::UpstreamReset))]);
        assert_eq!(bench.end().await, End::Broken);
    }
}

fn quick(request_ms: u64) -> Box<Decide> {
    Box::new(move |_| {
        let plan = Plan { timeouts: Timeouts { request_ms, stream_idle_ms: 0 }, ..plan() };
        Decision { action: Action::Forward(plan), filters: None }
    })
}

#[tokio::test(flavor = "local")]
async fn a_stalled_endpoint_is_504_at_the_request_timeout() {
    let mut bench = Bench::new(Settings::sidecar(), quick(30));
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    head(&mut bench.client).await;
    expect(&mut bench.client, "upstream request timeout").await;
    assert_eq!(bench.outcomes(), [(504, Some(Reason::ResponseTimeout))]);
    assert_eq!(rest(&mut endpoint).await, "");
}

#[tokio::test(flavor = "local")]
async fn a_dripping_answer_is_cut_at_the_request_timeout() {
    let mut bench = Bench::new(Settings::sidecar(), quick(30));
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na").await;
    assert!(rest(&mut bench.client).await.ends_with("\r\n\r\na"));
    assert_eq!(bench.end().await, End::Broken);
}

#[tokio::test(flavor = "local")]
async fn slow_heads_and_stalled_bodies_are_408() {
    let settings = || Settings {
        head_timeout: Duration::from_millis(30),
        body_timeout: Duration::from_millis(30),
        ..Settings::sidecar()
    };
    let mut bench = Bench::new(settings(), to_endpoint(Filters::default()));
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    assert!(rest(&mut bench.client).await.starts_with("HTTP/1.1 408 "));

    let mut bench = Bench::new(settings(), to_endpoint(Filters::default()));
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    assert!(rest(&mut bench.client).await.starts_with("HTTP/1.1 408 "));
    assert_eq!(bench.outcomes(), [(408, Some(Reason::RequestTimeout))]);
}

#[tokio::test(flavor = "local")]
async fn idle_connections_end_silently() {
    let settings = Settings { idle_timeout: Duration::from_millis(20), ..Settings::sidecar() };
    let mut bench = Bench::new(settings, to_endpoint(Filters::default()));
    assert_eq!(rest(&mut bench.client).await, "");
    assert_eq!(bench.outcomes(), []);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_half_closes_gets_its_answer() {
    let mut bench = Bench::sidecar();
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    bench.client.shutdown().await.unwrap();
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
    assert!(rest(&mut bench.client).await.ends_with("\r\n\r\na"));
    assert_eq!(bench.end().await, End::Closed);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_vanishes_in_its_body_leaves_no_half_request_behind() {
    let mut bench = Bench::sidecar();
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    bench.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut endpoint).await, "abc");
    assert_eq!(bench.outcomes(), [(499, Some(Reason::DownstreamReset))]);
}

#[tokio::test(flavor = "local")]
async fn informational_responses_without_end_are_cut() {
    let mut bench = Bench::sidecar();
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, &"HTTP/1.1 102 Processing\r\n\r\n".repeat(20)).await;
    expect(&mut bench.client, "HTTP/1.1 503 ").await;
}
