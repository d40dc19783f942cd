use std::cell::Cell;
use std::time::Duration;

use actix_http::body::{BodyStream, to_bytes};
use actix_http::{ConnectionType, HttpService, KeepAlive, Request, Response};
use actix_service::{Service, ServiceFactory, fn_service};
use actix_web::rt::spawn;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::clock::{sleep, uptime};
use crate::http::connections::{ConnectionLimits, Connections};

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n";

fn connections() -> std::sync::Arc<Connections> {
    let limits = ConnectionLimits {
        total: 8,
        per_address: 8,
        proxies: Vec::new(),
    };
    Connections::new(limits, Counter::default())
}

thread_local! {
    /// How many requests this thread's handlers have answered.
    static ANSWERS: Cell<u32> = const { Cell::new(0) };
}

/// What a handler does with the body of its request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Body,
    Nothing,
}

async fn answer(mut request: Request, reads: Reads) -> Result<Response<String>, actix_web::Error> {
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    if let Some(connection) = &connection {
        connection.begin(request.head());
    }
    let mut answer = format!("{} {}", request.method(), request.path());
    if reads == Reads::Body
        && let Ok(body) = to_bytes(BodyStream::new(request.take_payload())).await
    {
        answer = format!("{answer} {}", body.escape_ascii());
    }
    let mut response = Response::ok();
    if let Some(connection) = &connection {
        connection.finish();
        // As the guard does it.
        if connection.is_old() && request.path() != "/on" {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
    }
    ANSWERS.set(ANSWERS.get() + 1);
    Ok(response.set_body(answer))
}

async fn serve_library<T: AsyncRead + AsyncWrite + Unpin + 'static>(
    io: T,
    reads: Reads,
    share: impl Fn(&T) -> Option<Rc<Connection>> + 'static,
) {
    let service = HttpService::build()
        .keep_alive(KeepAlive::Os)
        // The library counts it by another clock, which does not pause.
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(Duration::from_secs(1))
        .h1_allow_half_closed(false)
        .on_connect_ext(move |io: &T, data| {
            if let Some(connection) = share(io) {
                data.insert(connection);
            }
        })
        .h1(fn_service(move |request| answer(request, reads)));
    let service = service.new_service(()).await.unwrap();
    let _ = service.call((io, None)).await;
}

/// The library behind a stream of ours.
fn serve_with(buffer: usize, reads: Reads) -> DuplexStream {
    let (peer, io) = duplex(buffer);
    let (place, ended) = connections().admit([192, 0, 2, 1].into()).unwrap();
    let stream = Stream::new(io, place, ended, false);
    spawn(serve_library(stream, reads, |stream| Some(stream.connection())));
    peer
}

fn serve(buffer: usize) -> DuplexStream {
    serve_with(buffer, Reads::Nothing)
}

/// The library alone.
fn serve_directly(reads: Reads) -> DuplexStream {
    let (peer, io) = duplex(64 * 1024);
    spawn(serve_library(io, reads, |_| None));
    peer
}

/// How long it takes until the server closes, in seconds, and what it said.
async fn close(peer: &mut DuplexStream) -> (u64, String) {
    let before = uptime();
    let mut answers = Vec::new();
    let _ = peer.read_to_end(&mut answers).await;
    (
        uptime().saturating_sub(before).as_secs(),
        String::from_utf8(answers).unwrap(),
    )
}

fn count(answers: &str) -> usize {
    answers.matches(" 200 OK\r\n").count()
}

#[actix_web::test]
async fn a_connection_without_a_request_ends() {
    tokio::time::pause();
    for request in [GET, CHUNKED] {
        let mut peer = serve(4096);
        peer.write_all(request).await.unwrap();
        let (seconds, answers) = close(&mut peer).await;
        assert_eq!(count(&answers), 1, "{answers}");
        assert_eq!(seconds, TICK.as_secs() * u64::from(IDLE_TICKS), "{answers}");
    }
}

#[actix_web::test]
async fn a_connection_that_is_used_stays() {
    tokio::time::pause();
    let mut peer = serve(4096);
    let mut answer = [0; 1024];
    for _ in 0..60 {
        peer.write_all(GET).await.unwrap();
        assert!(peer.read(&mut answer).await.unwrap() > 0);
        sleep(TICK).await;
    }
    let (seconds, _) = close(&mut peer).await;
    assert!((65..=75).contains(&seconds), "{seconds}");
}

#[actix_web::test]
async fn a_connection_that_is_always_used_ends_all_the_same() {
    tokio::time::pause();
    // A peer that asks again and again; then one whose answers do not say that the connection ends.
    for (request, ends) in [
        (GET, LIFE_TICKS),
        (b"GET /on HTTP/1.1\r\nHost: a\r\n\r\n", LONGEST_LIFE_TICKS),
    ] {
        let mut peer = serve(4096);
        let (before, mut last) = (uptime(), Vec::new());
        let mut answer = [0; 1024];
        while peer.write_all(request).await.is_ok() {
            match peer.read(&mut answer).await {
                Ok(length @ 1..) => last = answer[..length].to_vec(),
                _ => break,
            }
            sleep(TICK).await;
        }
        let lived = uptime().saturating_sub(before);
        let life = TICK * ends;
        // It asks once more behind the end. A sleep may last a millisecond longer than asked for, so that its questions drift.
        let latest = life + TICK + Duration::from_millis(2) * ends;
        assert!((life..=latest).contains(&lived), "{lived:?}");
        let last = String::from_utf8(last).unwrap().to_ascii_lowercase();
        assert_eq!(last.contains("connection: close"), ends == LIFE_TICKS, "{last}");
    }
}

/// Each begins before a look and ends behind it.
#[actix_web::test]
async fn heads_that_come_slowly_enough_are_read() {
    tokio::time::pause();
    let mut peer = serve(4096);
    let mut answer = [0; 1024];
    let (start, end) = GET.split_at(10);
    for _ in 0..20 {
        peer.write_all(start).await.unwrap();
        sleep(TICK.mul_f64(0.99)).await;
        peer.write_all(end).await.unwrap();
        assert!(peer.read(&mut answer).await.unwrap() > 0);
    }
}

#[actix_web::test]
async fn the_start_of_a_later_head_has_a_time() {
    tokio::time::pause();
    for request in [GET, CHUNKED] {
        for start in [
            "\r\n",
            "G",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r",
        ] {
            let mut peer = serve(4096);
            peer.write_all(&[request, start.as_bytes()].concat()).await.unwrap();
            let (seconds, answers) = close(&mut peer).await;
            assert_eq!(count(&answers), 1, "{answers}");
            assert_eq!(seconds, TICK.as_secs() * u64::from(HEAD_TICKS), "{start:?}");
        }
    }
}

#[actix_web::test]
async fn a_body_that_nobody_needs_has_a_time() {
    tokio::time::pause();
    let mut peer = serve(4096);
    peer.write_all(&CHUNKED[..CHUNKED.len() - 5]).await.unwrap();
    for _ in 0..100 {
        if peer.write_all(b"1\r\na\r\n").await.is_err() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert!(peer.write_all(b"1\r\na\r\n").await.is_err());
    let (seconds, answers) = close(&mut peer).await;
    assert_eq!((seconds, count(&answers)), (0, 1), "{answers}");
}

#[actix_web::test]
async fn an_answer_that_the_peer_does_not_take_has_a_time() {
    tokio::time::pause();
    let mut peer = serve(64);
    let before = uptime();
    while peer.write_all(GET).await.is_ok() {}
    let seconds = uptime().saturating_sub(before).as_secs();
    assert_eq!(seconds, TICK.as_secs() * u64::from(ANSWER_TICKS));
}

/// Everything that the peer says until it is silent or closes, without the dates.
async fn listen(peer: &mut DuplexStream) -> String {
    let mut answers = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(Duration::from_millis(100), peer.read(&mut bytes)).await {
        answers.extend_from_slice(&bytes[..length]);
    }
    let answers = String::from_utf8(answers).unwrap();
    let lines = answers.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date: ")).collect()
}

/// The same answers as by the library alone, wherever the requests are cut into packets.
#[actix_web::test]
async fn the_stream_changes_no_answer() {
    tokio::time::pause();
    let blank_lines = [
        &b"POST /lines HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n"[..],
        &[b'\n'; 256],
        b"\r\n0\r\nX: y\r\n\r\n",
    ]
    .concat();
    let sized =
        |head: &str| format!("{head} HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nx\r\n\r\n\r\ny").into_bytes();
    let requests = [
        CHUNKED.to_vec(),
        blank_lines,
        GET.to_vec(),
        sized("GET /body"),
        b"\r\n\nHEAD / HTTP/1.1\nHost: a\n\n".to_vec(),
        sized("POST /sized"),
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\"\r\n\r\n\r\n0;c\r\nX: y\r\nZ: 0\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nx=1".to_vec(),
        b"POST /old HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nx=1".to_vec(),
        CHUNKED.to_vec(),
        GET.to_vec(),
    ];
    let all = requests.concat();
    let ends = [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ];
    for (at_end, end) in ends.into_iter().enumerate() {
        let bytes = [&all, end].concat();
        // One after the other: pipelined, the library answers a HEAD by the method of the request behind it.
        let mut direct = serve_directly(Reads::Body);
        let mut expected = String::new();
        for request in requests.iter().map(Vec::as_slice).chain([end]) {
            direct.write_all(request).await.unwrap();
            expected += &listen(&mut direct).await;
        }
        assert_eq!(
            count(&expected),
            requests.len() + usize::from(at_end == 3),
            "{expected}"
        );
        // Refusals of the library get a body in the stream.
        let expected = expected.split("HTTP/1.1 400").next().unwrap();
        for cut in if at_end == 0 { 0 } else { all.len() - 3 }..bytes.len() {
            let mut peer = serve_with(64 * 1024, Reads::Body);
            let (start, rest) = bytes.split_at(cut);
            peer.write_all(start).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            // It may have been refused already.
            let _ = peer.write_all(rest).await;
            let found = listen(&mut peer).await;
            assert_eq!(found.split("HTTP/1.1 400").next().unwrap(), expected, "cut at {cut}");
            assert_eq!(
                found.contains("HTTP/1.1 400"),
                at_end == 1 || at_end == 2,
                "cut at {cut}"
            );
        }
    }
}

/// Also if no handler needs their bodies.
#[actix_web::test]
async fn requests_in_any_pieces_are_answered_one_by_one() {
    tokio::time::pause();
    let many_lines = [
        &b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n"[..],
        &[b'\n'; 256],
        b"\r\n0\r\nX: y\r\n\r\n",
    ]
    .concat();
    let requests = [CHUNKED, CHUNKED, GET, &many_lines, CHUNKED, GET, GET].concat();
    for at in 0..requests.len() {
        let mut peer = serve(64 * 1024);
        let (start, end) = requests.split_at(at);
        peer.write_all(start).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        peer.write_all(end).await.unwrap();
        // All are answered at once.
        sleep(Duration::from_millis(1)).await;
        let mut answers = vec![0; 8 * 1024];
        let mut length = 0;
        while count(std::str::from_utf8(&answers[..length]).unwrap()) < 7 {
            let more = tokio::time::timeout(TICK / 2, peer.read(&mut answers[length..])).await;
            length += more.unwrap_or_else(|_| panic!("cut at {at}")).unwrap();
        }
    }
}

#[actix_web::test]
async fn who_sends_many_requests_at_once_lets_everybody_else_go_first() {
    let mut many = Vec::new();
    for _ in 0..32 {
        let mut peer = serve(64 * 1024);
        peer.write_all(&GET.repeat(500)).await.unwrap();
        many.push(peer);
    }
    let mut one = serve(1024);
    // The first request of each comes before anybody's turn.
    while ANSWERS.get() < 40 {
        tokio::task::yield_now().await;
    }
    for _ in 0..50 {
        let before = ANSWERS.get();
        one.write_all(GET).await.unwrap();
        assert!(one.read(&mut [0; 1024]).await.unwrap() > 0);
        let others = ANSWERS.get() - before - 1;
        assert!(others <= 3, "{others} came before");
    }
    for peer in &mut many {
        let (mut answers, mut length) = (vec![0; 128 * 1024], 0);
        while count(std::str::from_utf8(&answers[..length]).unwrap()) < 20 {
            length += peer.read(&mut answers[length..]).await.unwrap();
        }
    }
}
