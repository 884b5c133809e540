//! How much strangers may hold before they have proved who they are, and how fast they may ask to join.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Handshakes in flight on one port: each may hold about 40 KiB, so strangers hold 20 MiB at most.
pub(crate) const HANDSHAKES_MAX: usize = 512;
/// Handshakes in flight from one address: a script that opens dozens of connections passes, a flood does not.
pub(crate) const HANDSHAKES_PER_IP_MAX: usize = 64;
/// Established connections on one port: authenticated clients, about 100 KiB each at worst.
pub(crate) const CONNECTIONS_MAX: usize = 8192;
/// A handshake takes two round trips; five seconds forgive a slow link and a busy machine.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Joins per second over all addresses: a farm of a thousand hosts joins in twenty seconds.
const JOINS_PER_SECOND: f64 = 50.0;
/// A rack that boots at once.
const JOINS_BURST: f64 = 200.0;
/// Joins per second from one address: guessing a 128-bit secret stays hopeless, a retry loop does no harm.
const JOINS_PER_SECOND_PER_IP: f64 = 5.0;
/// Hosts behind one NAT that boot at once.
const JOINS_BURST_PER_IP: f64 = 64.0;
/// Addresses remembered by the join gate; beyond it the idle ones are forgotten.
const JOIN_ADDRESSES_MAX: usize = 4096;

/// Counts handshakes in flight, in all and per address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handshakes {
    by_address: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// One handshake's place; given back on drop.
#[derive(Debug)]
pub(crate) struct HandshakePlace {
    handshakes: Handshakes,
    address: IpAddr,
}

impl Handshakes {
    /// A place for one more, or `None` when a bound is reached.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<HandshakePlace> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = by_address.get(&address).copied().unwrap_or(0);
        let all: usize = by_address.values().sum();
        if mine >= HANDSHAKES_PER_IP_MAX || all >= HANDSHAKES_MAX {
            return None;
        }
        by_address.insert(address, mine + 1);
        Some(HandshakePlace { handshakes: self.clone(), address })
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        let mut by_address = self.handshakes.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant, rate: f64, burst: f64) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * rate).min(burst);
        self.at = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// How fast strangers may use the join port.
#[derive(Debug)]
pub(crate) struct JoinGate {
    all: Bucket,
    by_address: BTreeMap<IpAddr, Bucket>,
}

impl JoinGate {
    /// A full gate.
    pub(crate) fn new(now: Instant) -> Self {
        Self { all: Bucket { left: JOINS_BURST, at: now }, by_address: BTreeMap::new() }
    }

    /// Whether one more attempt from `address` may pass now. Loopback counts only in the sum: one machine's users share it.
    pub(crate) fn pass(&mut self, address: IpAddr, now: Instant) -> bool {
        if !address.is_loopback() && !self.pass_address(address, now) {
            return false;
        }
        self.all.take(now, JOINS_PER_SECOND, JOINS_BURST)
    }

    fn pass_address(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.by_address.len() >= JOIN_ADDRESSES_MAX {
            let idle = Duration::from_secs(1);
            self.by_address.retain(|_, bucket| now.saturating_duration_since(bucket.at) < idle);
            if self.by_address.len() >= JOIN_ADDRESSES_MAX {
                return false;
            }
        }
        let fresh = Bucket { left: JOINS_BURST_PER_IP, at: now };
        self.by_address.entry(address).or_insert(fresh).take(now, JOINS_PER_SECOND_PER_IP, JOINS_BURST_PER_IP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_cannot_take_every_handshake() {
        let handshakes = Handshakes::default();
        let mut held: Vec<_> = (0..HANDSHAKES_PER_IP_MAX).map(|_| handshakes.enter(ip(1)).unwrap()).collect();
        assert!(handshakes.enter(ip(1)).is_none());
        assert!(handshakes.enter(ip(2)).is_some());
        held.pop();
        assert!(handshakes.enter(ip(1)).is_some());
    }

    #[test]
    fn all_addresses_together_are_bounded_too() {
        let handshakes = Handshakes::default();
        let held: Vec<_> = (0..HANDSHAKES_MAX)
            .map(|n| handshakes.enter(ip(u8::try_from(n / HANDSHAKES_PER_IP_MAX).unwrap())).unwrap())
            .collect();
        assert!(handshakes.enter(ip(99)).is_none());
        drop(held);
        assert!(handshakes.enter(ip(99)).is_some());
    }

    #[test]
    fn joins_pass_in_a_burst_and_then_at_the_rate() {
        let start = Instant::now();
        let mut gate = JoinGate::new(start);
        let passed = (0..1000).filter(|_| gate.pass(ip(1), start)).count();
        assert_eq!(passed, JOINS_BURST_PER_IP as usize);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| gate.pass(ip(1), later)).count(), 5);
        assert!(gate.pass(ip(2), later));
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let start = Instant::now();
        let mut gate = JoinGate::new(start);
        for n in 0..20_000u32 {
            gate.pass(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), start);
        }
        assert!(gate.by_address.len() <= JOIN_ADDRESSES_MAX);
    }
}
