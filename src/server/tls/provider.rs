//! The cryptography of TLS: suites, curves and signatures, in the order in which Go's programs prefer them.
//!
//! The server's order counts and not the client's: a client that names longer keys first, as OpenSSL does, gets the
//! suite that etcd would choose.
#![forbid(unsafe_code)]

use aws_lc_rs::agreement::{ECDH_P521, EphemeralPrivateKey, PublicKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved, SupportedCipherSuite};

/// Suites, the preferred ones first.
fn suites() -> Vec<SupportedCipherSuite> {
    vec![
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ]
}

/// What the two sides may agree on a key by. A client sends its part of the first one with its first words.
fn groups() -> Vec<&'static dyn SupportedKxGroup> {
    vec![
        kx_group::X25519MLKEM768,
        kx_group::SECP256R1MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
        &Secp521,
    ]
}

/// The cryptography that all connections begin with.
pub fn provider() -> CryptoProvider {
    CryptoProvider { cipher_suites: suites(), kx_groups: groups(), ..default_provider() }
}

/// Agreement on the curve P-521, for which rustls has no group of its own.
#[derive(Debug)]
struct Secp521;

impl SupportedKxGroup for Secp521 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let private = EphemeralPrivateKey::generate(&ECDH_P521, &SystemRandom::new());
        let private = private.map_err(|_| GetRandomFailed)?;
        let public = private.compute_public_key().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Exchange { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

/// An agreement that waits for the other side's part.
struct Exchange {
    private: EphemeralPrivateKey,
    public: PublicKey,
}

/// What a point begins with of which both coordinates are given, the only form in TLS.
const UNCOMPRESSED: u8 = 4;

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        const WRONG: Error = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);
        if peer.first() != Some(&UNCOMPRESSED) {
            return Err(WRONG);
        }
        let peer = UnparsedPublicKey::new(&ECDH_P521, peer);
        agree_ephemeral(self.private, peer, WRONG, |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_agree_on_p_521_and_other_forms_of_a_point_are_refused() {
        let (one, two) = (Secp521.start().unwrap(), Secp521.start().unwrap());
        let (first, second) = (one.pub_key().to_vec(), two.pub_key().to_vec());
        let shared = one.complete(&second).unwrap();
        assert_eq!(shared.secret_bytes(), two.complete(&first).unwrap().secret_bytes());
        assert_eq!((first.len(), shared.secret_bytes().len()), (133, 66));
        let sign = if second[132] & 1 == 0 { 2 } else { 3 };
        let compressed = [&[sign], &second[1..67]].concat();
        let mut elsewhere = second.clone();
        elsewhere[132] ^= 1;
        for wrong in [&second[..132], &compressed, &elsewhere, &[], &[0]] {
            assert!(Secp521.start().unwrap().complete(wrong).is_err());
        }
    }
}
