//! Caddy, with its one file; certificates of our own in place of those that it would order.

use crate::deployment::self_signed;
use crate::process::free_port;

use super::forging::Drops;
use super::{Gateway, Program, Surroundings, hold_to_forward_auth, shipped};

fn start(around: &Surroundings<'_>) -> Gateway {
    let (key, certificate) = self_signed(around.folder);
    let (id, api) = (free_port(), free_port());
    let [first, second, admin] = around.nodes.addresses(around.admin_port);
    let site = |port: u16| format!("\nhttps://localhost:{port} {{\n\ttls {certificate} {key}\n");
    let configuration = shipped(
        "caddy/Caddyfile",
        &[
            first,
            second,
            admin,
            around.policy(),
            ("\nid.example.com {\n", site(id)),
            ("\napi.example.com {\n", site(api)),
            ("127.0.0.1:8000", format!("127.0.0.1:{}", around.service)),
        ],
    );
    let file = around.folder.join("Caddyfile");
    // Its own port for administration, and port 80 for redirections, belong to no test.
    std::fs::write(
        &file,
        format!("{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{configuration}"),
    )
    .unwrap();
    Gateway {
        id: Some(format!("https://localhost:{id}")),
        api: format!("https://localhost:{api}"),
        _programs: vec![Box::new(Program::start(
            "caddy",
            &["run", "--adapter", "caddyfile", "--config", file.to_str().unwrap()],
            around.folder,
        ))],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy_as_shipped_refuses_forgers_and_no_one_else() {
    hold_to_forward_auth("Caddy", Drops::Everything, 404, start).await;
}
