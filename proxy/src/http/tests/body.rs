//! Bodies: counted, chunked, until close; early answers, 100-continue, upgrades.

use super::*;

#[tokio::test(flavor = "local")]
async fn chunked_bodies_and_trailers_pass_both_ways_reframed() {
    let mut bench = Bench::sidecar();
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n").await;
    bench.send("00000003;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "POST / HTTP/1.1\r\nhost: a\r\ntrailer: X-Sum\r\ntransfer-encoding: chunked\r\n\r\n").await;
    expect(&mut endpoint, "3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\nx-t: 1\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-t: 1\r\n\r\n")
        .await;
}

#[tokio::test(flavor = "local")]
async fn bodies_until_close_become_chunked_and_keep_the_client() {
    let mut bench = Bench::sidecar();
    for _ in 0..2 {
        bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut endpoint = bench.endpoint().await;
        head(&mut endpoint).await;
        say(&mut endpoint, "HTTP/1.1 200 OK\r\n\r\nabc").await;
        drop(endpoint);
        expect(&mut bench.client, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    }
    assert_eq!(bench.pools.idle_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn large_bodies_pass_whole_both_ways() {
    let mut bench = Bench::sidecar();
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    bench.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    let mut endpoint = bench.endpoint().await;
    let (mut from_client, mut to_client) = tokio::io::split(bench.client);
    let upload = body.clone();
    let sender = tokio::spawn(async move { to_client.write_all(&upload).await.map(|()| to_client) });
    let head_sent = head(&mut endpoint).await;
    assert!(head_sent.contains("content-length: 3000000\r\n"), "{head_sent}");
    let mut got = vec![0; body.len()];
    patient(endpoint.read_exact(&mut got)).await.unwrap();
    assert!(got == body);
    let _to_client = patient(sender).await.unwrap().unwrap();
    let download = body.clone();
    let answer = tokio::spawn(async move {
        say(&mut endpoint, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for part in download.chunks(70_000) {
            say(&mut endpoint, &format!("{:x}\r\n", part.len())).await;
            endpoint.write_all(part).await.unwrap();
            say(&mut endpoint, "\r\n").await;
        }
        say(&mut endpoint, "0\r\n\r\n").await;
    });
    let mut decoder = super::super::framing::Decoder::new(super::super::framing::Framing::Chunked);
    let (mut raw, mut plain, mut piece) = (Vec::new(), Vec::new(), vec![0; 65536]);
    let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".len();
    while !decoder.is_done() {
        let count = patient(from_client.read(&mut piece)).await.unwrap();
        assert!(count > 0);
        raw.extend_from_slice(&piece[..count]);
        while raw.len() > start && !decoder.is_done() {
            let step = decoder.step(&raw[start..]).unwrap();
            plain.extend_from_slice(&raw[start + step.skip..start + step.skip + step.data]);
            raw.drain(start..start + step.skip + step.data);
            if step.skip + step.data == 0 {
                break;
            }
        }
    }
    assert!(plain == body);
    patient(answer).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn an_early_answer_reaches_the_client_before_its_body_is_over() {
    let mut bench = Bench::sidecar();
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    let expected = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    expect(&mut bench.client, expected).await;
    assert_eq!(bench.pools.idle_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn both_bodies_may_stream_at_the_same_time() {
    let mut bench = Bench::sidecar();
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    head(&mut bench.client).await;
    for _ in 0..3 {
        bench.send("1\r\na\r\n").await;
        expect(&mut endpoint, "1\r\na\r\n").await;
        say(&mut endpoint, "1\r\nb\r\n").await;
        expect(&mut bench.client, "1\r\nb\r\n").await;
    }
    bench.send("0\r\n\r\n").await;
    expect(&mut endpoint, "0\r\n\r\n").await;
    say(&mut endpoint, "0\r\n\r\n").await;
    expect(&mut bench.client, "0\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn continue_comes_from_the_endpoint_and_other_expectations_are_refused() {
    let mut bench = Bench::sidecar();
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    say(&mut endpoint, "HTTP/1.1 100 Continue\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    bench.send("abc").await;
    expect(&mut endpoint, "abc").await;
    say(&mut endpoint, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\nContent-Length: 3\r\n\r\n").await;
    assert!(rest(&mut bench.client).await.starts_with("HTTP/1.1 417 "));
}

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";

#[tokio::test(flavor = "local")]
async fn a_websocket_tunnel_opens_after_101_and_half_closes() {
    let mut bench = Bench::sidecar();
    bench.send(UPGRADE).await;
    let mut endpoint = bench.endpoint().await;
    let sent = head(&mut endpoint).await;
    assert!(sent.ends_with("sec-websocket-key: k\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"), "{sent}");
    say(&mut endpoint, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        .await;
    expect(
        &mut bench.client,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
    )
    .await;
    bench.send("\0binary\r\n").await;
    expect(&mut endpoint, "\0binary\r\n").await;
    bench.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut endpoint).await, "");
    say(&mut endpoint, "last words").await;
    drop(endpoint);
    assert_eq!(rest(&mut bench.client).await, "last words");
    assert_eq!(bench.pools.idle_count(), 0);
    assert_eq!(bench.end().await, End::Closed);
}

#[tokio::test(flavor = "local")]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let mut bench = Bench::sidecar();
    bench.send(UPGRADE).await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n").await;
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    expect(&mut endpoint, "GET / HTTP/1.1\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn an_upgrade_nobody_asked_for_is_502() {
    let answers = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "websocket"),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "h2c"),
        (UPGRADE, "h2c"),
    ];
    for (request, protocol) in answers {
        let mut bench = Bench::sidecar();
        bench.send(request).await;
        let mut endpoint = bench.endpoint().await;
        head(&mut endpoint).await;
        say(&mut endpoint, &format!("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n")).await;
        expect(&mut bench.client, "HTTP/1.1 502 Bad Gateway\r\n").await;
    }
}
