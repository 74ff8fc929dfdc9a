//! Whether the other side's certificate is taken: its chain as rustls sees it, and what etcd's flags ask besides.
//!
//! One kind of certificate is taken that rustls refuses and etcd does not: one that is among the authorities itself, as
//! a self-signed certificate that both sides know is.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::files::Authorities;
use super::x509::{Facts, Usage};

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
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.is_anybody() {
            return Ok(());
        }
        let facts = facts(certificate)?;
        let is_named = self.cns.contains(&facts.common_name)
            || self.hostnames.iter().any(|hostname| facts.is_for_host(hostname));
        if is_named { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, Error> {
    Facts::read(certificate).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// A certificate that is trusted as it is, and not for who has signed it.
fn check_known(certificate: &CertificateDer<'_>, usage: Usage, now: UnixTime) -> Result<Facts, Error> {
    let facts = facts(certificate)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < facts.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > facts.not_after {
        return Err(CertificateError::Expired.into());
    }
    if !facts.allows(usage) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(facts)
}

/// Verifies the certificates of clients.
#[derive(Debug)]
pub struct Clients {
    chains: Arc<dyn ClientCertVerifier>,
    known: Vec<CertificateDer<'static>>,
    allowed: Allowed,
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
        let chains = WebPkiClientVerifier::builder_with_provider(authorities.roots, provider.clone());
        let chains = chains.build().map_err(|error| format!("cannot verify client certificates: {error}"))?;
        Ok(Self { chains, known: authorities.certificates, allowed })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.known.contains(end_entity) {
            check_known(end_entity, Usage::Client, now)?;
        } else {
            self.chains.verify_client_cert(end_entity, intermediates, now)?;
        }
        self.allowed.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Which chains of a server's certificate are taken.
#[derive(Debug)]
enum Chains {
    /// Any, whose key must still be the server's.
    Any,
    /// None: no authority is known.
    Nobody,
    /// Those that lead to an authority.
    Of(Arc<WebPkiServerVerifier>),
}

/// Verifies the certificates of servers.
#[derive(Debug)]
pub struct Servers {
    chains: Chains,
    known: Vec<CertificateDer<'static>>,
    allowed: Allowed,
    provider: Arc<CryptoProvider>,
}

impl Servers {
    /// A server has to show a certificate of one of these authorities for the name by which it was called. Without any
    /// authority no server is taken: a member that dials nobody does without.
    ///
    /// # Errors
    /// When the authorities cannot be used.
    pub fn new(
        authorities: Authorities,
        allowed: Allowed,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let chains = if authorities.roots.is_empty() {
            Chains::Nobody
        } else {
            let chains = WebPkiServerVerifier::builder_with_provider(authorities.roots, provider.clone());
            let failed = |error| format!("cannot verify server certificates: {error}");
            Chains::Of(chains.build().map_err(failed)?)
        };
        Ok(Self { chains, known: authorities.certificates, allowed, provider: provider.clone() })
    }

    /// Any certificate is taken.
    pub fn any(provider: &Arc<CryptoProvider>) -> Self {
        Self {
            chains: Chains::Any,
            known: Vec::new(),
            allowed: Allowed::default(),
            provider: provider.clone(),
        }
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
        let chains = match &self.chains {
            Chains::Any => return Ok(ServerCertVerified::assertion()),
            Chains::Nobody => return Err(CertificateError::UnknownIssuer.into()),
            Chains::Of(chains) => chains,
        };
        if self.known.contains(end_entity) {
            let facts = check_known(end_entity, Usage::Server, now)?;
            if !facts.is_for_host(&server_name.to_str()) {
                return Err(CertificateError::NotValidForName.into());
            }
        } else {
            chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        self.allowed.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;

    use super::super::provider::provider;

    #[test]
    fn without_authorities_no_server_is_taken_and_none_is_needed_to_begin() {
        let nobody = Authorities { roots: Arc::new(RootCertStore::empty()), certificates: Vec::new() };
        let provider = Arc::new(provider());
        let servers = Servers::new(nobody, Allowed::default(), &provider).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let any = CertificateDer::from(vec![0x30, 0]);
        let taken = servers.verify_server_cert(&any, &[], &name, &[], UnixTime::now());
        assert_eq!(taken.err(), Some(CertificateError::UnknownIssuer.into()));
    }
}
