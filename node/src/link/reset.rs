//! What makes a restarted node tell its agents at their next packet that it knows them no more: stateless resets, signed
//! with a key that outlives the process. Without it an agent would wait for an idle timeout.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use sha2::{Digest, Sha256};

/// SHA-256 works on blocks of this size.
const BLOCK_BYTES: usize = 64;

/// Length of SHA-256.
const SIGNATURE_BYTES: usize = 32;

/// Random and long enough that no two connections of a node share one.
const CONNECTION_ID_BYTES: usize = 8;

/// A restart of a node resets thousands of agents; each reset is one small datagram.
const RESET_PAUSE: Duration = Duration::from_micros(200);

/// Jumbo frames and loopback; agents probe for what the path carries.
pub(super) const UDP_PAYLOAD_BYTES_MAX: u16 = 8952;

/// The endpoint's configuration: `secret` is anything that only this node knows and keeps.
pub(super) fn endpoint_config(secret: &[u8]) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey::new(secret)));
    config.cid_generator(|| Box::new(RandomIds)).min_reset_interval(RESET_PAUSE);
    // Within the bounds that quinn checks.
    config.max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX).ok();
    config
}

/// Connection ids without a checksum of this process, so that those of an earlier one are answered with a reset.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_BYTES];
        // A failing system source leaves zeroes: connections then collide and fail, nothing worse.
        getrandom::fill(&mut bytes).ok();
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// HMAC-SHA-256 (RFC 2104).
struct ResetKey {
    inner: Sha256,
    outer: Sha256,
}

impl ResetKey {
    fn new(secret: &[u8]) -> Self {
        let key = Sha256::new().chain_update(b"stratavore stateless reset").chain_update(secret).finalize();
        let padded = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            Sha256::new().chain_update(block)
        };
        Self { inner: padded(0x36), outer: padded(0x5c) }
    }

    fn mac(&self, data: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let inner = self.inner.clone().chain_update(data).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let mac = self.mac(data);
        signature_out.iter_mut().zip(mac).for_each(|(out, byte)| *out = byte);
    }

    fn signature_len(&self) -> usize {
        SIGNATURE_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Every byte is looked at, so that the time tells nothing.
        let mac = self.mac(data);
        let differing = mac.iter().zip(signature).fold(0, |bits, (a, b)| bits | (a ^ b));
        if differing == 0 && signature.len() == SIGNATURE_BYTES { Ok(()) } else { Err(CryptoError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_follow_the_secret_and_the_data() {
        let (one, two) = (ResetKey::new(b"one"), ResetKey::new(b"two"));
        let mut signature = [0; SIGNATURE_BYTES];
        one.sign(b"data", &mut signature);
        assert!(ResetKey::new(b"one").verify(b"data", &signature).is_ok());
        assert!(two.verify(b"data", &signature).is_err());
        assert!(one.verify(b"date", &signature).is_err());
        assert!(one.verify(b"data", &signature[..31]).is_err());
    }

    #[test]
    fn the_mac_is_that_of_the_standard() {
        // RFC 4231, test case 2, with the key put in place of the derived one.
        let mut key = ResetKey::new(b"");
        let padded = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            block.iter_mut().zip(b"Jefe").for_each(|(byte, key)| *byte ^= key);
            Sha256::new().chain_update(block)
        };
        (key.inner, key.outer) = (padded(0x36), padded(0x5c));
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(data_encoding::HEXLOWER.encode(&key.mac(b"what do ya want for nothing?")), expected);
    }
}
