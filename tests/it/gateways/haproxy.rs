//! `HAProxy`, with its one file and its Lua.

use crate::deployment::self_signed;
use crate::process::free_port;

use super::forging::Drops;
use super::{Gateway, Program, Surroundings, hold_to_forward_auth, shipped};

fn start(around: &Surroundings<'_>) -> Gateway {
    let (key, certificate) = self_signed(around.folder);
    let pem = around.folder.join("haproxy.pem");
    let both = [certificate, key]
        .map(|file| std::fs::read_to_string(file).unwrap())
        .concat();
    std::fs::write(&pem, both).unwrap();
    let pem = pem.to_str().unwrap().to_owned();
    let (id, api, questions) = (free_port(), free_port(), free_port());
    let [first, second, admin] = around.nodes.addresses(around.admin_port);
    let configuration = shipped(
        "haproxy/haproxy.cfg",
        &[
            first,
            second,
            admin,
            around.policy(),
            (
                "/etc/haproxy/keyround.lua",
                concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy/keyround.lua").to_owned(),
            ),
            ("/etc/haproxy/keyround/id.pem", pem.clone()),
            ("/etc/haproxy/keyround/api.pem", pem),
            ("bind :443 ", format!("bind 127.0.0.1:{id} ")),
            ("bind :8443 ", format!("bind 127.0.0.1:{api} ")),
            ("127.0.0.1:8079", format!("127.0.0.1:{questions}")),
            ("127.0.0.1:8000", format!("127.0.0.1:{}", around.service)),
        ],
    );
    let file = around.folder.join("haproxy.cfg");
    std::fs::write(&file, configuration).unwrap();
    Gateway {
        id: Some(format!("https://localhost:{id}")),
        api: format!("https://localhost:{api}"),
        _programs: vec![Box::new(Program::start(
            "haproxy",
            &["-db", "-f", file.to_str().unwrap()],
            around.folder,
        ))],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_as_shipped_refuses_forgers_and_no_one_else() {
    hold_to_forward_auth("HAProxy", Drops::Everything, 503, start).await;
}
