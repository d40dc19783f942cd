//! nginx, with both of its files as one server.

use crate::deployment::{self_signed, start_nginx_with};
use crate::process::free_port;

use super::forging::Drops;
use super::{Gateway, Surroundings, hold_to_forward_auth, shipped};

fn start(around: &Surroundings<'_>) -> Gateway {
    let (key, certificate) = self_signed(around.folder);
    let (id, api) = (free_port(), free_port());
    let [first, second, _] = around.nodes.addresses(around.admin_port);
    let files = [
        ("/etc/nginx/keyround/fullchain.pem", certificate),
        ("/etc/nginx/keyround/privkey.pem", key),
    ];
    let listen = |port: u16| ("listen 443 ssl;", format!("listen 127.0.0.1:{port} ssl;"));
    let proxy = shipped(
        "nginx/keyround.conf",
        &[&files[..], &[first, second, listen(id)]].concat(),
    );
    let service = ("127.0.0.1:3000", format!("127.0.0.1:{}", around.service));
    let forward_auth = shipped(
        "nginx/forward-auth.conf",
        &[&files[..], &[service, listen(api), around.policy()]].concat(),
    );
    Gateway {
        id: Some(format!("https://localhost:{id}")),
        api: format!("https://localhost:{api}"),
        _programs: vec![Box::new(start_nginx_with(
            around.folder,
            &format!("{proxy}{forward_auth}"),
        ))],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_as_shipped_refuses_forgers_and_no_one_else() {
    hold_to_forward_auth("nginx", Drops::Identity, 500, start).await;
}
