//! Whether the other side's certificate is taken: its chain as rustls sees it, and what etcd's flags ask besides.
//!
//! Some certificates are taken here that rustls refuses and etcd does not: one that is trusted as it is, as a
//! self-signed certificate that both sides know, and one of an old version or of an authority, if an authority that is
//! trusted has signed it itself.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, RootCertStore,
    SignatureScheme,
};

use super::authorities::Authorities;
use super::x509::{Facts, Signed, Usage};

/// Who may be at the other end, of those whom an authority vouches for.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Common names; empty for any.
    pub cns: Vec<String>,
    /// Host names and addresses; empty for any.
    pub hostnames: Vec<String>,
}

impl Allowed {
    fn is_anybody(&self) -> bool {
        self.cns.is_empty() && self.hostnames.is_empty()
    }

    /// Refuses a certificate of nobody who is allowed. No other check of a client's certificate ends with this error.
    fn check(&self, facts: &Facts) -> Result<(), Error> {
        if self.is_anybody() {
            return Ok(());
        }
        let is_named = self.cns.contains(&facts.common_name)
            || self.hostnames.iter().any(|hostname| facts.is_for_host(hostname));
        if is_named { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, Error> {
    Facts::read(certificate).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Whom to trust.
#[derive(Debug)]
struct Trust {
    authorities: Authorities,
    allowed: Allowed,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    /// Judges a certificate, if it is one that rustls does not take or does not know; says whether it is.
    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        facts: &Facts,
        usage: Usage,
        now: i64,
    ) -> Result<bool, Error> {
        let is_known = self.authorities.certificates.contains(certificate);
        if !is_known && !facts.is_odd() {
            return Ok(false);
        }
        check_alone(facts, usage, now)?;
        if !is_known {
            self.authorities.check_signed(certificate, self.algorithms(), now)?;
        }
        Ok(true)
    }

    /// Verifies a chain by all authorities, and where the time of some is not now, by the others.
    fn verify(
        &self,
        now: i64,
        verify: impl Fn(Option<RootCertStore>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        verify(None)?;
        match self.authorities.valid_ones(now) {
            None => Ok(()),
            Some(others) => verify(Some(others)).map_err(|_| CertificateError::Expired.into()),
        }
    }
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// What a certificate says of itself, whoever has signed it.
fn check_alone(facts: &Facts, usage: Usage, now: i64) -> Result<(), Error> {
    let why = if facts.is_strange {
        CertificateError::UnhandledCriticalExtension
    } else if now < facts.not_before {
        CertificateError::NotValidYet
    } else if now > facts.not_after {
        CertificateError::Expired
    } else if !facts.allows(usage) {
        CertificateError::InvalidPurpose
    } else {
        return Ok(());
    };
    Err(why.into())
}

type ClientChains = Arc<dyn ClientCertVerifier>;

fn client_chains(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Option<ClientChains> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok()
}

/// Verifies the certificates of clients.
#[derive(Debug)]
pub struct Clients {
    /// Chains that lead to an authority, if there is one that may have signed certificates.
    chains: Option<ClientChains>,
    trust: Trust,
}

impl Clients {
    /// A client has to show a certificate of one of these authorities.
    ///
    /// # Errors
    /// When there is no authority.
    pub fn new(
        authorities: Authorities,
        allowed: Allowed,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        if authorities.names.is_empty() {
            return Err("cannot verify client certificates: there is no authority".to_owned());
        }
        let chains = client_chains(RootCertStore::clone(&authorities.roots), provider);
        Ok(Self { chains, trust: Trust { authorities, allowed, provider: provider.clone() } })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.trust.authorities.names
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let facts = facts(end_entity)?;
        if !self.trust.judge(end_entity, &facts, Usage::Client, seconds(now))? {
            let provider = &self.trust.provider;
            self.trust.verify(seconds(now), |others| {
                let made = others.map(|roots| client_chains(roots, provider));
                let chains = made.as_ref().unwrap_or(&self.chains).as_ref();
                let chains = chains.ok_or(CertificateError::UnknownIssuer)?;
                chains.verify_client_cert(end_entity, intermediates, now).map(drop)
            })?;
        }
        self.trust.allowed.check(&facts)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match old_key(cert)? {
            Some(signed) => verify_tls12_by_key(message, &signed, dss, self.trust.algorithms()),
            None => verify_tls12_signature(message, cert, dss, self.trust.algorithms()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match old_key(cert)? {
            Some(signed) => {
                let key = SubjectPublicKeyInfoDer::from(signed.key);
                verify_tls13_signature_with_raw_key(message, &key, dss, self.trust.algorithms())
            }
            None => verify_tls13_signature(message, cert, dss, self.trust.algorithms()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

/// The parts of a certificate of an old version, which rustls does not read.
fn old_key<'a>(certificate: &'a CertificateDer<'_>) -> Result<Option<Signed<'a>>, Error> {
    if !facts(certificate)?.is_old {
        return Ok(None);
    }
    Signed::read(certificate).map(Some).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Verifies a signature of TLS 1.2, where the scheme leaves open which curve the key is on.
fn verify_tls12_by_key(
    message: &[u8],
    signed: &Signed<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let (id, key) = signed.key_parts().ok_or(CertificateError::BadEncoding)?;
    let offered = algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
    let (_, possible) = offered.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let algorithm = possible.iter().find(|algorithm| *algorithm.public_key_alg_id() == *id);
    let verified = algorithm.map(|algorithm| algorithm.verify_signature(key, message, dss.signature()));
    match verified {
        Some(Ok(())) => Ok(HandshakeSignatureValid::assertion()),
        _ => Err(CertificateError::BadSignature.into()),
    }
}

type ServerChains = Arc<WebPkiServerVerifier>;

fn server_chains(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Option<ServerChains> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok()
}

/// Verifies the certificates of servers.
#[derive(Debug)]
pub struct Servers {
    /// Any certificate is taken, if its key is the server's.
    takes_any: bool,
    /// Chains that lead to an authority, if there is one that may have signed certificates.
    chains: Option<ServerChains>,
    trust: Trust,
}

impl Servers {
    /// A server has to show a certificate of one of these authorities for the name by which it was called. Without any
    /// authority no server is taken: a member that dials nobody does without.
    pub fn new(authorities: Authorities, allowed: Allowed, provider: &Arc<CryptoProvider>) -> Self {
        let chains = server_chains(RootCertStore::clone(&authorities.roots), provider);
        let trust = Trust { authorities, allowed, provider: provider.clone() };
        Self { takes_any: false, chains, trust }
    }

    /// Any certificate is taken.
    pub fn any(provider: &Arc<CryptoProvider>) -> Self {
        let authorities = Authorities::of_system(Vec::new());
        let trust = Trust { authorities, allowed: Allowed::default(), provider: provider.clone() };
        Self { takes_any: true, chains: None, trust }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.takes_any {
            return Ok(ServerCertVerified::assertion());
        }
        let facts = facts(end_entity)?;
        if self.trust.judge(end_entity, &facts, Usage::Server, seconds(now))? {
            if !facts.is_for_host(&server_name.to_str()) {
                return Err(CertificateError::NotValidForName.into());
            }
        } else {
            let provider = &self.trust.provider;
            self.trust.verify(seconds(now), |others| {
                let made = others.map(|roots| server_chains(roots, provider));
                let chains = made.as_ref().unwrap_or(&self.chains).as_ref();
                let chains = chains.ok_or(CertificateError::UnknownIssuer)?;
                chains
                    .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                    .map(drop)
            })?;
        }
        self.trust.allowed.check(&facts)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, self.trust.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, self.trust.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::provider::provider;

    #[test]
    fn without_authorities_no_server_is_taken_and_none_is_needed_to_begin() {
        let nobody = Authorities::of(Vec::new()).unwrap();
        let provider = Arc::new(provider());
        let servers = Servers::new(nobody, Allowed::default(), &provider);
        let name = ServerName::try_from("localhost").unwrap();
        let any = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let any = any.cert.der();
        let taken = servers.verify_server_cert(any, &[], &name, &[], UnixTime::now());
        assert_eq!(taken.err(), Some(CertificateError::UnknownIssuer.into()));
    }
}
