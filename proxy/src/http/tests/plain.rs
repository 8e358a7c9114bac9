//! Requests as they should be: keep-alive, pipelining, headers, HEAD, HTTP/1.0, drain.

use super::*;
use snapshot::HeaderOps;

#[tokio::test(flavor = "local")]
async fn connections_of_both_sides_are_kept_and_reused() {
    let mut bench = Bench::sidecar();
    let mut endpoint = bench.warm_up().await;
    bench.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    expect(&mut endpoint, "GET /2 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 204 No Content\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(bench.dialled.try_recv().is_err());
    bench.client.shutdown().await.unwrap();
    assert_eq!(bench.outcomes(), [(200, None), (204, None)]);
    assert_eq!(bench.pools.idle_count(), 1);
    assert_eq!(bench.end().await, End::Closed);
}

#[tokio::test(flavor = "local")]
async fn pipelined_requests_are_answered_in_order() {
    let mut bench = Bench::sidecar();
    bench.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1").await;
    expect(&mut endpoint, "POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2").await;
    expect(&mut endpoint, "GET /3 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3").await;
    for n in 1..=3 {
        expect(&mut bench.client, &format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{n}")).await;
    }
}

#[tokio::test(flavor = "local")]
async fn requests_that_come_byte_by_byte_are_the_same_requests() {
    let mut bench = Bench::sidecar();
    for byte in b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
        bench.client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut endpoint = bench.endpoint().await;
    let got = head(&mut endpoint).await;
    assert_eq!(got, "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    expect(&mut endpoint, "1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn hop_by_hop_headers_end_here_both_ways() {
    let mut bench = Bench::sidecar();
    bench
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop, Upgrade, HTTP2-Settings\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
             TE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nProxy-Connection: x\r\nX-Kuma-Tags: &a=b&\r\nX-Stays: 1\r\n\r\n",
        )
        .await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET / HTTP/1.1\r\nhost: a\r\nx-stays: 1\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nUpgrade: h2\r\nX-Stays: 1\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\nx-stays: 1\r\ncontent-length: 0\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn head_and_304_announce_a_length_without_a_body() {
    let mut bench = Bench::sidecar();
    bench.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n").await;
    expect(&mut endpoint, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn old_clients_get_unchunked_bodies_and_no_interim_responses() {
    let mut bench = Bench::sidecar();
    bench.send("GET / HTTP/1.0\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET / HTTP/1.1\r\nhost: \r\n\r\n").await;
    say(
        &mut endpoint,
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(rest(&mut bench.client).await, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc");
}

#[tokio::test(flavor = "local")]
async fn old_clients_may_keep_their_connection() {
    let mut bench = Bench::sidecar();
    for _ in 0..2 {
        bench.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        let mut endpoint = bench.endpoint().await;
        head(&mut endpoint).await;
        say(&mut endpoint, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na").await;
        expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\na").await;
    }
}

#[tokio::test(flavor = "local")]
async fn close_is_honoured_and_announced() {
    let mut bench = Bench::sidecar();
    bench.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
    assert_eq!(rest(&mut bench.client).await, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na");
}

#[tokio::test(flavor = "local")]
async fn draining_ends_idle_connections_and_announces_it_on_busy_ones() {
    let mut idle = Bench::sidecar();
    idle.warm_up().await;
    idle.drain.send(true).unwrap();
    assert_eq!(rest(&mut idle.client).await, "");
    assert_eq!(idle.end().await, End::Closed);

    let mut busy = Bench::sidecar();
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = busy.endpoint().await;
    head(&mut endpoint).await;
    busy.drain.send(true).unwrap();
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
    assert_eq!(rest(&mut busy.client).await, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na");
}

#[tokio::test(flavor = "local")]
async fn filters_change_both_heads_and_cannot_break_them() {
    let filters = Filters {
        request: HeaderOps {
            remove: vec!["x-gone".into(), "x-again".into()],
            set: vec![("X-Set".into(), "new".into()), ("x-evil".into(), "a\r\nb: c".into())],
            add: vec![("x-again".into(), "2".into()), ("content-length".into(), "9".into())],
        },
        response: HeaderOps {
            set: vec![("x-out".into(), "1".into()), ("b d".into(), "1".into())],
            ..HeaderOps::default()
        },
        host: Some("other.example".into()),
        ..Filters::default()
    };
    let mut bench = Bench::new(Settings::sidecar(), to_endpoint(filters));
    bench.send("GET /?q HTTP/1.1\r\nHost: a\r\nX-Gone: 1\r\nx-set: old\r\nX-Again: 1\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET /?q HTTP/1.1\r\nhost: other.example\r\nx-set: new\r\nx-again: 2\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nX-OUT: 0\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\nx-out: 1\r\ncontent-length: 0\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn a_rewritten_path_cannot_break_the_request_line() {
    let decide: Box<Decide> = Box::new(|request| {
        assert_eq!((request.path, request.query, request.host), ("/old", Some("q=1"), "a.example"));
        assert_eq!(request.headers.get("X-Twice").as_deref(), Some(&b"1,2"[..]));
        let plan = Plan { path: Some("/n w\r\nx".into()), ..plan() };
        Decision {
            action: Action::Forward(plan),
            filters: Some(Arc::new(Filters { host_of_endpoint: true, ..Filters::default() })),
        }
    });
    let mut bench = Bench::new(Settings::sidecar(), decide);
    bench.send("GET /x/../old?q=1 HTTP/1.1\r\nHost: A.Example:80\r\nx-twice: 1\r\nx-twice: 2\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET /n%20w%0D%0Ax?q=1 HTTP/1.1\r\nhost: endpoint.example\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn absolute_form_replaces_host() {
    let mut bench = Bench::sidecar();
    bench.send("GET http://b.example:81/p?q HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET /p?q HTTP/1.1\r\nhost: b.example:81\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn a_mirror_gets_a_copy_and_its_answer_is_dropped() {
    let decide: Box<Decide> = Box::new(|_| {
        let plan = Plan { mirror: Some(()), ..plan() };
        Decision { action: Action::Forward(plan), filters: None }
    });
    let mut bench = Bench::new(Settings::sidecar(), decide);
    bench.send("POST / HTTP/1.1\r\nHost: a.example:81\r\nContent-Length: 2\r\n\r\nhi").await;
    let (mut one, mut other) = (bench.endpoint().await, bench.endpoint().await);
    let (one_head, other_head) = (head(&mut one).await, head(&mut other).await);
    let (endpoint, mirror, copied) = match one_head.contains("-shadow") {
        true => (&mut other, &mut one, one_head),
        false => (&mut one, &mut other, other_head),
    };
    assert_eq!(copied, "POST / HTTP/1.1\r\nhost: a.example-shadow:81\r\ncontent-length: 2\r\n\r\n");
    expect(mirror, "hi").await;
    expect(endpoint, "hi").await;
    say(mirror, "HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\nbad").await;
    say(endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    while bench.pools.idle_count() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "local")]
async fn an_idle_connection_is_small() {
    let (_client, io) = duplex(1);
    let bench = Bench::sidecar();
    let context = Context {
        traffic: Rc::clone(&bench.fake),
        pools: Rc::clone(&bench.pools),
        settings: Arc::new(Settings::sidecar()),
        peer: None,
    };
    let (_drain, drained) = watch::channel(false);
    let bytes = size_of_val(&serve(io, context, drained, Wire::Sniff, |end, _| end));
    assert!(bytes < 4096, "{bytes} bytes");
}
