//! Certificates that are trusted: as authorities, which have signed others, and as they are.
//!
//! Not every certificate that is trusted may sign others: a client's own among them vouches for that client alone. And
//! an authority vouches for nobody when its own time is over. rustls looks at neither, so that is done here, by the
//! rules of Go.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};

use super::x509::{Facts, Signed, key_parts};

/// Certificates that are trusted.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// Those that may have signed others.
    pub roots: Arc<RootCertStore>,
    /// From when until when each of the roots is valid, in seconds of Unix time.
    valid: Vec<(i64, i64)>,
    /// All that are trusted as they are.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What a client is told, which may have certificates of several authorities.
    pub names: Vec<DistinguishedName>,
}

impl Authorities {
    /// Of these certificates, which are trusted as they are too.
    ///
    /// # Errors
    /// When one of them makes no sense.
    pub fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let (mut all, mut roots, mut valid) = (RootCertStore::empty(), RootCertStore::empty(), Vec::new());
        for certificate in &certificates {
            let facts = Facts::read(certificate).ok_or(CertificateError::BadEncoding)?;
            all.add(certificate.clone())?;
            if facts.is_signer() {
                roots.add(certificate.clone())?;
                valid.push((facts.not_before, facts.not_after));
            }
        }
        Ok(Self { roots: Arc::new(roots), valid, certificates, names: all.subjects() })
    }

    /// Of those among these certificates that make sense.
    pub fn of_system(certificates: Vec<CertificateDer<'static>>) -> Self {
        let (mut roots, mut valid) = (RootCertStore::empty(), Vec::new());
        for certificate in certificates {
            if let Some(facts) = Facts::read(&certificate).filter(Facts::is_signer)
                && roots.add(certificate).is_ok()
            {
                valid.push((facts.not_before, facts.not_after));
            }
        }
        let names = roots.subjects();
        Self { roots: Arc::new(roots), valid, certificates: Vec::new(), names }
    }

    /// Those whose time it is; none where it is the time of all of them.
    pub fn valid_ones(&self, now: i64) -> Option<RootCertStore> {
        let is_valid = |&(from, to): &(i64, i64)| (from..=to).contains(&now);
        if self.valid.iter().all(is_valid) {
            return None;
        }
        let both = self.roots.roots.iter().zip(&self.valid);
        Some(both.filter(|(_, valid)| is_valid(valid)).map(|(root, _)| root.clone()).collect())
    }

    /// Looks whether an authority whose time it is has signed a certificate.
    ///
    /// # Errors
    /// When none has.
    pub fn check_signed(
        &self,
        certificate: &CertificateDer<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
        now: i64,
    ) -> Result<(), Error> {
        let signed = Signed::read(certificate).ok_or(CertificateError::BadEncoding)?;
        let is_valid = |valid: &(i64, i64)| (valid.0..=valid.1).contains(&now);
        let mut roots = self.roots.roots.iter().zip(&self.valid).filter(|(_, valid)| is_valid(valid));
        let is_signed = roots.any(|(root, _)| has_signed(root, &signed, algorithms));
        if is_signed { Ok(()) } else { Err(CertificateError::UnknownIssuer.into()) }
    }
}

/// An authority that may sign for some names only has signed for none here: names are not compared.
fn has_signed(root: &TrustAnchor<'_>, signed: &Signed<'_>, algorithms: &WebPkiSupportedAlgorithms) -> bool {
    let Some((key_id, key)) = key_parts(&root.subject_public_key_info) else { return false };
    root.name_constraints.is_none()
        && *root.subject == *signed.issuer
        && algorithms.all.iter().any(|algorithm| {
            *algorithm.signature_alg_id() == *signed.algorithm
                && *algorithm.public_key_alg_id() == *key_id
                && algorithm.verify_signature(key, signed.body, signed.signature).is_ok()
        })
}
