//! Envoy: one file asks Keyround about each request, the other verifies by the key set.

use std::collections::BTreeMap;

use crate::deployment::{self_signed, start_nginx_with};
use crate::process::free_port;

use super::forging::Drops;
use super::{
    Gateway, Program, SETTINGS, Service, Surroundings, forging, hold_to_forward_auth, load, nodes::Nodes, shipped,
};

/// Whether the run was told to go on without it.
#[expect(
    clippy::disallowed_methods,
    reason = "the person who runs the tests says so by the environment"
)]
fn is_left_out() -> bool {
    std::env::var("TEST_WITHOUT_VERIFIERS").is_ok_and(|names| names.split(',').any(|name| name == "envoy"))
}

fn run(around: &Surroundings<'_>, configuration: &str) -> Program {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/interop/envoy/envoy/_bin/envoy");
    assert!(
        std::path::Path::new(program).exists(),
        "the gateway envoy is not installed: run make test, or set TEST_WITHOUT_VERIFIERS=envoy to go on without it"
    );
    let file = around.folder.join("envoy.yaml");
    std::fs::write(&file, configuration).unwrap();
    let more = ["--disable-hot-restart", "--concurrency", "2", "--log-level", "error"];
    Program::start(
        program,
        &[&more[..], &["-c", file.to_str().unwrap()]].concat(),
        around.folder,
    )
}

/// A shipped address of Envoy's, as it is written there, and ours in its place.
fn address(shipped: (&str, u16), host: &str, port: u16) -> (String, String) {
    let write = |host: &str, port: u16| format!("address: {host}, port_value: {port} ");
    (write(shipped.0, shipped.1), write(host, port))
}

fn replaced(name: &str, addresses: &[(String, String)], more: &[(&str, String)]) -> String {
    let addresses = addresses.iter().map(|(from, to)| (from.as_str(), to.clone()));
    shipped(name, &addresses.chain(more.iter().cloned()).collect::<Vec<_>>())
}

fn start_ext_authz(around: &Surroundings<'_>) -> Gateway {
    let port = free_port();
    let nodes = &around.nodes;
    let configuration = replaced(
        "envoy/ext-authz.yaml",
        &[
            address(("0.0.0.0", 8443), "127.0.0.1", port),
            address(("10.0.0.1", 8080), super::nodes::HOSTS[0], nodes.port),
            address(("10.0.0.2", 8080), super::nodes::HOSTS[1], nodes.port),
            address(("127.0.0.1", 8000), "127.0.0.1", around.service),
        ],
        &[
            ("port_value: 9090", format!("port_value: {}", around.admin_port)),
            around.policy(),
        ],
    );
    Gateway {
        id: None,
        api: format!("http://127.0.0.1:{port}"),
        _programs: vec![Box::new(run(around, &configuration))],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_with_ext_authz_as_shipped_refuses_forgers_and_no_one_else() {
    if !is_left_out() {
        hold_to_forward_auth("Envoy ext_authz", Drops::Everything, 404, start_ext_authz).await;
    }
}

/// With nginx as shipped between Envoy and the nodes: it is what answers at `id.example.com`.
fn start_jwt_authn(around: &Surroundings<'_>) -> Gateway {
    let (key, certificate) = self_signed(around.folder);
    let (id, api) = (free_port(), free_port());
    let [first, second, _] = around.nodes.addresses(around.admin_port);
    let proxy = shipped(
        "nginx/keyround.conf",
        &[
            first,
            second,
            ("listen 443 ssl;", format!("listen 127.0.0.1:{id} ssl;")),
            ("/etc/nginx/keyround/fullchain.pem", certificate.clone()),
            ("/etc/nginx/keyround/privkey.pem", key),
        ],
    );
    let configuration = replaced(
        "envoy/envoy.yaml",
        &[
            address(("0.0.0.0", 8443), "127.0.0.1", api),
            address(("id.example.com", 443), "127.0.0.1", id),
            address(("127.0.0.1", 8000), "127.0.0.1", around.service),
        ],
        &[
            ("/etc/ssl/certs/ca-certificates.crt", certificate),
            ("sni: id.example.com", "sni: localhost".to_owned()),
            ("exact: id.example.com", "exact: localhost".to_owned()),
        ],
    );
    Gateway {
        id: Some(format!("https://localhost:{id}")),
        api: format!("http://127.0.0.1:{api}"),
        _programs: vec![
            Box::new(start_nginx_with(around.folder, &proxy)),
            Box::new(run(around, &configuration)),
        ],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_with_jwt_authn_as_shipped_refuses_forgers_and_no_one_else() {
    if is_left_out() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Nodes::start(&SETTINGS).await;
    let service = Service::start();
    let gateway = start_jwt_authn(&Surroundings {
        folder: folder.path(),
        nodes: &nodes,
        service: service.port,
        admin_port: nodes.admin_port,
        policy: "api",
    });
    let token = nodes.token("strong", "read").await;
    gateway.until(&gateway.api, Some(&token), 200).await;
    let person = format!("Authorization: Bearer {}", nodes.person().await);
    let (status, seen) = forging::send(&gateway.api, "/", &[&person], "");
    assert!(status == 200 && seen.is_some(), "a person: {status}");
    // A token for another service is denied too, with the status that Envoy has for it.
    let foreign = format!("Authorization: Bearer {}", nodes.token("weak", "write").await);
    for (headers, expected) in [
        (&[][..], 401),
        (&["Authorization: Bearer garbage"], 401),
        (&["Authorization: Basic YTpi"], 401),
        (&[foreign.as_str()], 403),
    ] {
        let (status, seen) = forging::send(&gateway.api, "/", headers, "");
        assert!(status == expected && seen.is_none(), "{headers:?}: {status}");
    }
    // It sends no identity on, so none may reach the service.
    forging::reaches_no_service(
        "Envoy jwt_authn",
        &gateway.api,
        &token,
        Drops::Everything,
        &BTreeMap::new(),
    );
    let mut requests = vec![load::Request::service(&gateway.api, &token)];
    requests.extend(load::Request::of_keyround(
        gateway.id.as_deref().unwrap(),
        &nodes.secret("strong"),
    ));
    load::rolling_restart("Envoy jwt_authn", &requests, &mut nodes).await;
    nodes.stop_all().await;
}
