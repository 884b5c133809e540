//! Free ports below 32768: above lies the range from which the kernel takes source ports.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Lowest port handed out; well-known services live below.
const FIRST: u16 = 20_000;
/// End of the range (exclusive).
const END: u16 = 32_000;
/// Ports of one node, taken as one block.
const BLOCK: u16 = 10;
/// Random blocks tried before giving up; with a handful of farms at work the first one is nearly always free.
const ATTEMPTS: u32 = 200;

/// The ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Public API, TCP.
    pub grpc: u16,
    /// Agents, UDP.
    pub quic: u16,
    /// Other nodes, TCP.
    pub raft: u16,
    /// Joining, TCP.
    pub join: u16,
    /// Metrics and health, TCP.
    pub metrics: u16,
}

impl Ports {
    /// A block that nobody uses now.
    ///
    /// # Panics
    /// When no free block is found.
    #[must_use]
    pub fn free() -> Self {
        let blocks = u128::from((END - FIRST) / BLOCK);
        for _ in 0..ATTEMPTS {
            let block = u16::try_from(uuid::Uuid::new_v4().as_u128() % blocks).unwrap_or(0);
            let base = FIRST + block * BLOCK;
            if (base..base + BLOCK).all(is_free) {
                return Self::from_base(base);
            }
        }
        panic!("no free block of {BLOCK} ports between {FIRST} and {END}")
    }

    fn from_base(base: u16) -> Self {
        Self { grpc: base, quic: base + 1, raft: base + 2, join: base + 3, metrics: base + 4 }
    }

    /// Command-line flags that name these ports.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        [
            ("--grpc-port", self.grpc),
            ("--quic-port", self.quic),
            ("--raft-port", self.raft),
            ("--join-port", self.join),
            ("--metrics-port", self.metrics),
        ]
        .into_iter()
        .flat_map(|(flag, port)| [flag.to_owned(), port.to_string()])
        .collect()
    }
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_free_and_below_the_ephemeral_range() {
        let ports = Ports::free();
        assert!(ports.metrics < 32_768);
        assert!(is_free(ports.grpc) && is_free(ports.quic));
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
