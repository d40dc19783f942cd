//! Ports for programs that must be told theirs before they start.
//!
//! A port that the system chose for port 0 and that is closed again can be given away twice: the system hands it to the next caller,
//! or an outgoing connection takes it. Then a test talks to a program that it did not start.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Beside those of the system's own choice, which begin at 32768 by default.
const PORTS: Range<u16> = 10_000..32_000;
/// How many ports a process takes at a time; the first of them stays bound and says that the others are taken.
const BLOCK: u16 = 100;

struct Blocks {
    /// Where the next block is looked for.
    next: u16,
    /// How many blocks have been looked at.
    seen: u16,
    /// What is left of the current block.
    left: Range<u16>,
    claims: Vec<TcpListener>,
}

static BLOCKS: LazyLock<Mutex<Blocks>> = LazyLock::new(|| {
    let blocks = (PORTS.end - PORTS.start) / BLOCK;
    // Elsewhere than the last process: its closed connections keep some of its ports for a minute.
    let start = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(blocks)).unwrap();
    Mutex::new(Blocks {
        next: start,
        seen: 0,
        left: 0..0,
        claims: Vec::new(),
    })
});

/// A port on which no program listens, and which no other caller gets: neither in this process nor in one that runs beside it.
pub fn free_port() -> u16 {
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        for port in blocks.left.by_ref() {
            if bind(port).is_some() {
                return port;
            }
        }
        blocks.claim();
    }
}

impl Blocks {
    fn claim(&mut self) {
        let blocks = (PORTS.end - PORTS.start) / BLOCK;
        let system = chosen_by_the_system();
        loop {
            assert!(self.seen < blocks, "every port in {PORTS:?} has been handed out");
            let first = PORTS.start + self.next * BLOCK;
            let block = first..first + BLOCK;
            self.next = (self.next + 1) % blocks;
            self.seen += 1;
            if block.start < system.end && system.start < block.end {
                continue;
            }
            if let Some(claim) = bind(first) {
                self.claims.push(claim);
                self.left = first + 1..block.end;
                return;
            }
        }
    }
}

/// On every address: some programs listen there.
fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()
}

/// The ports of outgoing connections; none when they leave no others, for then one of them has to do.
fn chosen_by_the_system() -> Range<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    let (Some(first), Some(last)) = (numbers.next(), numbers.next()) else {
        return 0..0;
    };
    if first <= PORTS.start && PORTS.end <= last {
        return 0..0;
    }
    first..last
}

#[test]
fn a_port_is_handed_out_once() {
    let ports: Vec<u16> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..60).map(|_| free_port()).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let different: std::collections::BTreeSet<&u16> = ports.iter().collect();
    assert_eq!(different.len(), ports.len(), "{ports:?}");
    let system = chosen_by_the_system();
    assert!(
        ports.iter().all(|port| PORTS.contains(port) && !system.contains(port)),
        "{ports:?}"
    );
}

#[test]
fn a_port_that_is_in_use_is_passed_over() {
    let next = || BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).left.clone();
    // The next one of the block is taken by another program before it is handed out; other tests may take ports meanwhile.
    loop {
        free_port();
        let Some(taken) = next().next() else { continue };
        let Some(listener) = bind(taken) else { continue };
        let after = next();
        if after.start != taken {
            continue;
        }
        for _ in 0..BLOCK {
            assert_ne!(free_port(), taken);
        }
        drop(listener);
        return;
    }
}
