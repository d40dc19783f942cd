//! `keyround healthcheck`: asks the server of this machine how it is, for containers and people without another client.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::oauth::endpoints::{ISSUING_PATH, READINESS_PATH};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::failure::Failure;
use super::output;

/// Longer than a server that is well takes by far.
const PATIENCE: Duration = Duration::from_secs(3);

/// More than the answer ever has.
const LONGEST_ANSWER: u64 = 64 * 1024;

#[derive(Args)]
pub struct HealthRequest {
    /// Ask whether it can sign too, not only whether its key set can be trusted.
    #[arg(long)]
    issue: bool,
}

#[derive(Deserialize, Serialize)]
struct HealthAnswer {
    status: String,
    checks: Vec<HealthCheck>,
}

#[derive(Deserialize, Serialize)]
struct HealthCheck {
    name: String,
    ok: bool,
    detail: String,
    /// Whether a failure leaves the node in service.
    #[serde(default)]
    advisory: bool,
}

pub fn run(context: &Context, request: &HealthRequest) -> Result<(), Failure> {
    let listen = context.config()?.server.admin_listen;
    if listen.port() == 0 {
        return Err(Failure::Usage(format!(
            "server.admin_listen is {listen}, so that each start of a server takes another port; name the one that its first line of the log \
             tells: keyround healthcheck --set server.admin_listen={}:PORT",
            listen.ip()
        )));
    }
    let listener = reachable(listen);
    let mut answer = fetch(listener, if request.issue { ISSUING_PATH } else { READINESS_PATH })?;
    if !request.issue {
        // A balancer keeps a node whose ledger cannot be written; a person must hear of it.
        let issuing = fetch(listener, ISSUING_PATH)?;
        let failing = issuing
            .checks
            .into_iter()
            .filter(|check| check.name == "ledger" && !check.ok);
        answer.checks.extend(failing);
        if answer.checks.iter().any(|check| !check.ok) {
            "failing".clone_into(&mut answer.status);
        }
    }
    print(context, &answer);
    let failing: Vec<&str> = answer
        .checks
        .iter()
        .filter(|check| !check.ok)
        .map(|check| check.name.as_str())
        .collect();
    if failing.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!("not ready: {}", failing.join(", "))))
}

fn fetch(listener: SocketAddr, path: &str) -> Result<HealthAnswer, Failure> {
    let text = ask(listener, path)
        .map_err(|error| Failure::Refused(format!("no server answers at http://{listener}{path}: {error}")))?;
    read(&text).ok_or_else(|| {
        Failure::Refused(format!(
            "what answers at http://{listener}{path} is no Keyround server; look at server.admin_listen"
        ))
    })
}

fn print(context: &Context, answer: &HealthAnswer) {
    if context.json {
        output::json(answer);
        return;
    }
    let rows: Vec<Vec<String>> = answer.checks.iter().map(row).collect();
    output::line(&output::table(&["CHECK", "STATE", "DETAIL"], &rows));
}

fn row(check: &HealthCheck) -> Vec<String> {
    let state = if check.ok { "ok" } else { "failing" };
    vec![check.name.clone(), state.to_owned(), output::printable(&check.detail)]
}

/// A listener on every address answers on loopback too.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(listener: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&listener, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {listener}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut text)?;
    Ok(text)
}

/// The answer in its HTTP envelope; none when another program answered. A status and checks that disagree are none either.
fn read(text: &str) -> Option<HealthAnswer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?;
    let answer: HealthAnswer = serde_json::from_str(body).ok()?;
    let in_service = !answer.checks.is_empty() && answer.checks.iter().all(|check| check.ok || check.advisory);
    (status == if in_service { "200" } else { "503" }).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\r\n{body}")
    }

    #[test]
    fn an_answer_is_believed_only_when_its_parts_agree() {
        let good = r#"{"status":"ok","checks":[{"name":"key_set","ok":true,"detail":"2 keys"}]}"#;
        let bad = r#"{"status":"failing","checks":[{"name":"key_set","ok":false,"detail":"old"}]}"#;
        let advisory = r#"{"status":"failing","checks":[{"name":"rows","ok":false,"detail":"gone","advisory":true}]}"#;
        assert!(read(&envelope("200 OK", good)).is_some());
        assert!(read(&envelope("200 OK", advisory)).is_some_and(|answer| !answer.checks[0].ok));
        assert!(read(&envelope("503 Service Unavailable", bad)).is_some());
        for (status, body) in [
            ("200 OK", bad),
            ("503 Service Unavailable", good),
            ("503 Service Unavailable", advisory),
            ("404 Not Found", good),
            ("200 OK", "<html>"),
            ("200 OK", r#"{"status":"ok","checks":[]}"#),
        ] {
            assert!(read(&envelope(status, body)).is_none(), "{status} {body}");
        }
        assert!(read("").is_none());
    }

    #[test]
    fn every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.7:9090", "10.0.0.7:9090"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
