//! The variables that Kubernetes sets in every container for each Service of its namespace (`enableServiceLinks`). A Service
//! named `keyround` or `keyround-pg` makes variables that begin with `KEYROUND_` and are no settings. The links of Docker make the same ones,
//! and those with `_NAME` and `_ENV_`.

use std::net::{IpAddr, SocketAddr};

/// Whether a variable describes a Service. Name and value must both have the form that Kubernetes writes, so that a misspelt
/// setting is still refused.
pub(super) fn describes_service(variable: &str, value: &str) -> bool {
    let is_port = value.parse::<u16>().is_ok();
    let is_address = value.parse::<IpAddr>().is_ok();
    if variable.ends_with("_SERVICE_HOST") {
        return is_address;
    }
    // KEYROUND_SERVICE_PORT, and KEYROUND_SERVICE_PORT_HTTPS for a port that has a name.
    if variable.ends_with("_SERVICE_PORT") || variable.contains("_SERVICE_PORT_") {
        return is_port;
    }
    // KEYROUND_PORT_443_TCP=tcp://10.0.0.1:443, with _PROTO, _PORT and _ADDR.
    if let Some((_, port)) = variable.rsplit_once("_PORT_") {
        let mut parts = port.splitn(3, '_');
        let number = parts.next().unwrap_or("");
        let protocol = parts.next().unwrap_or("");
        return number.parse::<u16>().is_ok()
            && is_protocol(protocol)
            && match parts.next() {
                None => is_endpoint(value),
                Some("PROTO") => is_protocol(value),
                Some("PORT") => is_port,
                Some("ADDR") => is_address,
                Some(_) => false,
            };
    }
    // Docker: KEYROUND_NAME=/app/keyround, and KEYROUND_ENV_PATH for a variable of the other container.
    if variable.contains("_ENV_") {
        return true;
    }
    if variable.ends_with("_NAME") {
        return value.strip_prefix('/').is_some_and(|names| names.contains('/'));
    }
    // KEYROUND_PORT=tcp://10.0.0.1:443
    variable.ends_with("_PORT") && is_endpoint(value)
}

fn is_protocol(text: &str) -> bool {
    ["tcp", "udp", "sctp"]
        .iter()
        .any(|known| text.eq_ignore_ascii_case(known))
}

fn is_endpoint(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(protocol, address)| is_protocol(protocol) && address.parse::<SocketAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_services_are_recognised_and_misspelt_settings_are_not() {
        for (variable, value) in [
            ("KEYROUND_SERVICE_HOST", "10.0.0.1"),
            ("KEYROUND_SERVICE_HOST", "fd00::1"),
            ("KEYROUND_SERVICE_PORT", "8080"),
            ("KEYROUND_SERVICE_PORT_HTTP_ADMIN", "9090"),
            ("KEYROUND_PORT", "tcp://10.0.0.1:80"),
            ("KEYROUND_PORT", "tcp://[fd00::1]:80"),
            ("KEYROUND_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("KEYROUND_PORT_80_TCP_PROTO", "tcp"),
            ("KEYROUND_PORT_80_TCP_PORT", "80"),
            ("KEYROUND_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("KEYROUND_PORT_53_UDP_PROTO", "udp"),
            ("KEYROUND_PG_SERVICE_HOST", "10.0.0.2"),
            ("KEYROUND_PG_PORT", "tcp://10.0.0.2:5432"),
            ("KEYROUND_PORT_PORT_5432_TCP_ADDR", "10.0.0.2"),
            ("KEYROUND_SERVER_PORT_8080_SCTP", "sctp://10.0.0.2:8080"),
            ("KEYROUND_NAME", "/app/keyround"),
            ("KEYROUND_PG_ENV_PG_MAJOR", "16"),
        ] {
            assert!(describes_service(variable, value), "{variable}={value}");
        }
        for (variable, value) in [
            ("KEYROUND_PORT", "8080"),
            ("KEYROUND_SERVER_PORT", "8080"),
            ("KEYROUND_SERVER_LISTEN", "tcp://10.0.0.1:80"),
            ("KEYROUND_SERVICE_HOST", "id.example.com"),
            ("KEYROUND_SERVICE_PORT", "https"),
            ("KEYROUND_PORT_80_TCP_NAME", "80"),
            ("KEYROUND_PORT_HTTP_TCP", "tcp://10.0.0.1:80"),
            ("KEYROUND_PORT_80_QUIC", "tcp://10.0.0.1:80"),
            ("KEYROUND_DATABASE_URL", "postgres://10.0.0.1:5432"),
            ("KEYROUND_PORT", "tcp://10.0.0.1"),
            ("KEYROUND_NAME", "keyround"),
            ("KEYROUND_ISSUER_NAME", "/keyround"),
        ] {
            assert!(!describes_service(variable, value), "{variable}={value}");
        }
    }
}
