//! Whether a connection to PostgreSQL crosses a network without a check of who answers.

use url::form_urlencoded;

/// What an operator should know about this URL; nothing when the connection stays on this machine or the server's certificate is checked.
pub(super) fn warning(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split('/').next().unwrap_or_default();
    let (_, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut hosts: Vec<String> = hosts.split(',').map(without_port).collect();
    let mut mode = "prefer".to_owned();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "sslmode" | "ssl-mode" => mode = value.to_ascii_lowercase(),
            "host" | "hostaddr" => hosts = value.split(',').map(str::to_owned).collect(),
            _ => {}
        }
    }
    let remote = hosts.iter().find(|host| !is_local(host))?;
    let what = match mode.as_str() {
        "verify-full" | "verify-ca" => return None,
        "disable" => "is in the clear",
        "require" => "is encrypted, but nothing shows which server answers",
        _ => "is encrypted only if the server offers it, and nothing shows which server answers",
    };
    Some(format!(
        "database.url: the connection to {remote} {what}, so an attacker in the network can read and change everything; add \
         sslmode=verify-full (and sslrootcert=FILE for a private authority)"
    ))
}

fn without_port(host: &str) -> String {
    let bare = match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next(),
        None => host.split(':').next(),
    };
    bare.unwrap_or_default().to_owned()
}

fn is_local(host: &str) -> bool {
    let is_socket = host.is_empty() || host.starts_with('/') || host.to_ascii_lowercase().starts_with("%2f");
    is_socket
        || host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn only_a_checked_certificate_or_this_machine_goes_without_a_warning() {
        for silent in [
            "postgres:///keyround?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/keyround",
            "postgres://app:secret@localhost/keyround",
            "postgres://app:secret@127.0.0.1:5433/keyround",
            "postgres://app@[::1]:5433/keyround",
            "postgres://app@db.example.com/keyround?sslmode=verify-full",
            "postgres://app@db.example.com,db2.example.com/keyround?target_session_attrs=read-write&sslmode=verify-ca",
        ] {
            assert_eq!(warning(silent), None, "{silent}");
        }
        for (url, says) in [
            (
                "postgres://app:secret@db.example.com/keyround",
                "only if the server offers it",
            ),
            (
                "postgresql://app:secret@10.0.0.7:5432/keyround?sslmode=prefer",
                "only if",
            ),
            ("postgres://app:secret@db/keyround?sslmode=allow", "only if"),
            (
                "postgres://app:secret@db/keyround?sslmode=REQUIRE",
                "which server answers",
            ),
            ("postgres://app:secret@db/keyround?sslmode=disable", "in the clear"),
            ("postgres://localhost,db.example.com/keyround", "to db.example.com"),
            ("postgres:///keyround?host=db.example.com", "to db.example.com"),
        ] {
            let warning = warning(url).unwrap();
            assert!(warning.contains(says) && warning.contains("verify-full"), "{warning}");
            assert!(!warning.contains("secret"), "{warning}");
        }
    }
}
