//! The connections of a listener: how many there may be, in all and of one address.
//!
//! If there is no room for a new connection, one ends that no request is under way on: one of the address that holds most of them. So
//! an address that fills the listener displaces its own connections and no others. Among them the oldest ends that did not complete a
//! request, else the oldest that waits for its next one. If the listener is full and not the address alone, a connection that did not
//! complete a request has [`GRACE`] first: many addresses could otherwise end every newcomer before its first request.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use crate::accounts::client_address::ClientAddress;
use crate::clock::uptime;
use crate::values::Network;

/// On a full listener a new connection may take so long for its TLS handshake and its first request before it ends sooner than others.
pub const GRACE: Duration = Duration::from_secs(2);

/// How many connections a listener holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub total: usize,
    /// Of one IPv4 address, or of one /64 of IPv6.
    pub per_address: usize,
    /// The proxies, which bring the connections of many; only the first limit is for them.
    pub proxies: Vec<Network>,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// It has not completed a request yet.
    Fresh = 0,
    /// A whole request has come, and its answer is not written.
    Busy = 1,
    /// It waits for its peer: to send its next request, or to take an answer.
    Kept = 2,
}

/// The connections that are open.
pub struct Connections {
    limits: ConnectionLimits,
    open: Mutex<Open>,
    displaced: Counter,
}

#[derive(Default)]
struct Open {
    next: u64,
    all: BTreeMap<u64, ConnectionEntry>,
    /// By address, in the order in which they were accepted.
    by_address: HashMap<ClientAddress, BTreeSet<u64>>,
}

struct ConnectionEntry {
    address: ClientAddress,
    is_proxy: bool,
    /// By [`uptime`].
    accepted_at: Duration,
    activity: Arc<AtomicU8>,
    /// The connection ends when this is dropped.
    _end: oneshot::Sender<()>,
}

/// The place of one connection; free again when it is dropped.
pub(super) struct ConnectionSlot {
    connections: Arc<Connections>,
    number: u64,
    activity: Arc<AtomicU8>,
}

impl Connections {
    /// None yet. Connections that end for others are counted.
    #[must_use]
    pub fn new(limits: ConnectionLimits, displaced: Counter) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: Mutex::default(),
            displaced,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().all.len()
    }

    /// A place for a new connection, and what resolves when it must end for another; none when requests are under way on all that
    /// could end for it.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<(ConnectionSlot, oneshot::Receiver<()>)> {
        self.admit_at(peer, uptime())
    }

    fn admit_at(self: &Arc<Self>, peer: IpAddr, now: Duration) -> Option<(ConnectionSlot, oneshot::Receiver<()>)> {
        let address = ClientAddress::from(peer).network();
        let is_proxy = self.limits.proxies.iter().any(|proxy| proxy.contains(peer));
        let mut open = self.lock();
        let of_address = open.by_address.get(&address).map_or(0, BTreeSet::len);
        if !is_proxy && of_address >= self.limits.per_address {
            let own = open.by_address.get(&address).into_iter();
            self.displace(open.replaceable(own, now, Duration::ZERO)?, &mut open);
        }
        if open.all.len() >= self.limits.total {
            let all = open.by_address.values();
            self.displace(open.replaceable(all, now, GRACE)?, &mut open);
        }
        let (end, ended) = oneshot::channel();
        let activity = Arc::new(AtomicU8::new(Activity::Fresh as u8));
        let number = open.next;
        open.next += 1;
        let entry = ConnectionEntry {
            address,
            is_proxy,
            accepted_at: now,
            activity: Arc::clone(&activity),
            _end: end,
        };
        open.all.insert(number, entry);
        open.by_address.entry(address).or_default().insert(number);
        drop(open);
        let place = ConnectionSlot {
            connections: Arc::clone(self),
            number,
            activity,
        };
        Some((place, ended))
    }

    fn displace(&self, number: u64, open: &mut Open) {
        if open.remove(number).is_some() {
            self.displaced.inc();
        }
    }
}

impl Open {
    /// The connection that ends first, of addresses with these connections. No request is under way on it.
    fn replaceable<'a>(
        &self,
        addresses: impl Iterator<Item = &'a BTreeSet<u64>>,
        now: Duration,
        grace: Duration,
    ) -> Option<u64> {
        let ranked = addresses.flat_map(|of_address| {
            of_address.iter().filter_map(|&number| {
                let entry = self.all.get(&number)?;
                // A proxy brings the connections of many, each of which counts alone.
                let share = if entry.is_proxy { 1 } else { of_address.len() };
                let activity = entry.activity.load(Ordering::Relaxed);
                let turn = match activity == Activity::Fresh as u8 {
                    true if now.saturating_sub(entry.accepted_at) >= grace => 0,
                    false => 1,
                    true => 2,
                };
                (activity != Activity::Busy as u8).then_some((Reverse(share), turn, number))
            })
        });
        ranked.min().map(|(.., number)| number)
    }

    fn remove(&mut self, number: u64) -> Option<ConnectionEntry> {
        let entry = self.all.remove(&number)?;
        if let Some(of_address) = self.by_address.get_mut(&entry.address) {
            of_address.remove(&number);
            if of_address.is_empty() {
                self.by_address.remove(&entry.address);
            }
        }
        Some(entry)
    }
}

impl ConnectionSlot {
    pub(super) fn is(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(total: usize, per_address: usize) -> Arc<Connections> {
        let limits = ConnectionLimits {
            total,
            per_address,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
        };
        Connections::new(limits, Counter::default())
    }

    type Admitted = (ConnectionSlot, oneshot::Receiver<()>);

    fn has_ended((_, ended): &mut Admitted) -> bool {
        ended.try_recv() != Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn one_address_displaces_its_own_connections_alone() {
        let connections = connections(100, 3);
        let mut others = connections.admit("192.0.2.2".parse().unwrap()).unwrap();
        let admit = |host: u16| {
            connections
                .admit(format!("2001:db8::{host:x}").parse().unwrap())
                .unwrap()
        };
        let mut places: Vec<Admitted> = (0..10).map(admit).collect();
        let ended: Vec<bool> = places.iter_mut().map(has_ended).collect();
        assert_eq!(ended.iter().filter(|ended| !**ended).count(), 3);
        assert!(ended[..7].iter().all(|ended| *ended), "the oldest ended");
        assert!(!has_ended(&mut others));
        assert_eq!(connections.count(), 4);
        drop(places);
        assert_eq!(connections.count(), 1);
    }

    #[test]
    fn requests_under_way_are_never_cut() {
        let connections = connections(2, 2);
        let peer = "192.0.2.1".parse().unwrap();
        let (mut busy, mut kept) = (connections.admit(peer).unwrap(), connections.admit(peer).unwrap());
        busy.0.is(Activity::Busy);
        kept.0.is(Activity::Kept);
        let third = connections.admit(peer).unwrap();
        assert!(!has_ended(&mut busy) && has_ended(&mut kept));
        third.0.is(Activity::Busy);
        assert!(connections.admit(peer).is_none());
        busy.0.is(Activity::Kept);
        assert!(connections.admit(peer).is_some());
    }

    #[test]
    fn connections_that_said_nothing_end_before_those_that_are_kept() {
        let connections = connections(3, 3);
        let peers = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|peer| peer.parse().unwrap());
        let mut places = peers.map(|peer| connections.admit_at(peer, Duration::ZERO).unwrap());
        places[0].0.is(Activity::Kept);
        places[1].0.is(Activity::Kept);
        let _fourth = connections.admit_at("192.0.2.4".parse().unwrap(), GRACE).unwrap();
        assert_eq!(places.each_mut().map(has_ended), [false, false, true]);
    }

    #[test]
    fn connections_that_are_kept_end_before_those_that_just_began() {
        let connections = connections(3, 3);
        let peers = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|peer| peer.parse().unwrap());
        let mut places = peers.map(|peer| connections.admit_at(peer, Duration::ZERO).unwrap());
        places[1].0.is(Activity::Kept);
        let soon = GRACE.mul_f64(0.9);
        let _fourth = connections.admit_at("192.0.2.4".parse().unwrap(), soon).unwrap();
        assert_eq!(places.each_mut().map(has_ended), [false, true, false]);
        // None is kept now.
        let _fifth = connections.admit_at("192.0.2.5".parse().unwrap(), soon).unwrap();
        assert_eq!(places.each_mut().map(has_ended), [true, true, false]);
    }

    /// The limit of an address ends those of the address that said nothing, however young.
    #[test]
    fn an_address_has_no_grace_from_itself() {
        let connections = connections(10, 2);
        let admit = || connections.admit_at([192, 0, 2, 1].into(), Duration::ZERO).unwrap();
        let (mut kept, mut young) = (admit(), admit());
        kept.0.is(Activity::Kept);
        let _third = admit();
        assert!(!has_ended(&mut kept) && has_ended(&mut young));
    }

    #[test]
    fn an_address_that_holds_many_displaces_no_other() {
        let connections = connections(40, 16);
        let kept = |host: u8, now: Duration| {
            let place = connections.admit_at([192, 0, 2, host].into(), now).unwrap();
            place.0.is(Activity::Kept);
            place
        };
        let mut proxied: Vec<Admitted> = (0..4)
            .map(|_| connections.admit([10, 1, 2, 3].into()).unwrap())
            .collect();
        let mut kept_alone = kept(1, Duration::ZERO);
        let mut held: Vec<Admitted> = (0..60).map(|at| kept(100 + at % 3, Duration::ZERO)).collect();
        // Newcomers of some addresses, and one that waits before its request.
        let mut waits = connections.admit_at([192, 0, 2, 2].into(), Duration::ZERO).unwrap();
        for at in 0..200_u8 {
            held.push(kept(20 + at % 4, Duration::from_millis(50) * at.into()));
            assert!(!has_ended(&mut kept_alone) && !has_ended(&mut waits), "{at}");
        }
        assert!(proxied.iter_mut().all(|place| !has_ended(place)));
        assert_eq!(connections.count(), 40);
        drop(held);
    }

    #[test]
    fn a_proxy_brings_the_connections_of_many() {
        let connections = connections(100, 3);
        let mut places: Vec<Admitted> = (0..50)
            .map(|_| connections.admit("10.1.2.3".parse().unwrap()).unwrap())
            .collect();
        assert!(places.iter_mut().all(|place| !has_ended(place)));
    }
}
