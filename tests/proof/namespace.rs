//! A network namespace of its own for one node, with two wires to ours: one leads to its database and can be pulled, the other to
//! those who call it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

/// Made by `ip` and gone when dropped.
pub struct Namespace {
    name: String,
    /// Tells its addresses from those of another run, in the range for tests of networks (RFC 2544).
    number: u8,
}

#[derive(Clone, Copy)]
enum Wire {
    Database = 18,
    Callers = 19,
}

impl Namespace {
    /// None where the system lets nobody make one: it takes the privilege of administering the network.
    pub fn new() -> Option<Self> {
        let process = std::process::id();
        let namespace = Self {
            name: format!("kr{process}"),
            number: u8::try_from(process % 250).unwrap(),
        };
        if !ip(&["netns", "add", &namespace.name]) {
            return None;
        }
        let is_made = namespace.inside(&["link", "set", "lo", "up"])
            && [Wire::Database, Wire::Callers]
                .into_iter()
                .all(|wire| namespace.connect(wire));
        is_made.then_some(namespace)
    }

    fn connect(&self, wire: Wire) -> bool {
        let near = self.wire(wire);
        let far = format!("{near}f");
        let (near_at, far_at) = (self.near(wire), self.far(wire));
        ip(&[
            "link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &self.name,
        ]) && ip(&["addr", "add", &format!("{near_at}/24"), "dev", &near])
            && self.inside(&["addr", "add", &format!("{far_at}/24"), "dev", &far])
            && self.inside(&["link", "set", &far, "up"])
            && ip(&["link", "set", &near, "up"])
    }

    fn wire(&self, wire: Wire) -> String {
        format!("{}w{}", self.name, wire as u8)
    }

    const fn near(&self, wire: Wire) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, wire as u8, self.number, 1))
    }

    const fn far(&self, wire: Wire) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, wire as u8, self.number, 2))
    }

    /// Where its database must be: our end of the wire that can be pulled.
    pub const fn database(&self) -> IpAddr {
        self.near(Wire::Database)
    }

    /// Where its node may serve.
    pub const fn node(&self) -> IpAddr {
        self.far(Wire::Callers)
    }

    /// Pulls the wire to the database: what is sent is lost, and nobody says so.
    pub fn pull(&self) {
        assert!(ip(&["link", "set", &self.wire(Wire::Database), "down"]));
    }

    /// Puts it back.
    pub fn put_back(&self) {
        assert!(ip(&["link", "set", &self.wire(Wire::Database), "up"]));
    }

    /// This program, within it.
    pub fn run(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(program.as_ref());
        command
    }

    fn inside(&self, arguments: &[&str]) -> bool {
        ip(&[&["-netns", &self.name], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its wires go with it.
        ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    match &output {
        Ok(output) if output.status.success() => true,
        refused => {
            println!("ip {}: {refused:?}", arguments.join(" "));
            false
        }
    }
}
