//! The files of TLS: certificates and keys in PEM, and lists of revoked certificates. What is wrong with one is said in
//! the words of Go, behind the name of the file.
#![forbid(unsafe_code)]

use std::fs;
use std::io;

use rustls::Error;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::authorities::Authorities;
use super::x509::{Revoked, Signed};

/// Where systems keep the authorities that they trust.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where they keep them one by one.
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// What each block of PEM begins with.
const BEGIN: &[u8] = b"-----BEGIN";

/// Reads a file.
///
/// # Errors
/// When it cannot be read, in the words of Go.
pub fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("open {path}: {}", go_text(&error)))
}

fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads a certificate, those that stand behind it, and its key.
///
/// # Errors
/// When a file cannot be read, or the two do not belong together.
pub fn certified_key(cert: &str, key: &str, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let (cert_pem, key_pem) = (read(cert)?, read(key)?);
    let chain = chain(&cert_pem).map_err(|why| format!("{why} ({cert})"))?;
    let private = private_key(&key_pem).map_err(|why| format!("{why} ({key})"))?;
    let private = provider.key_provider.load_private_key(private).map_err(|error| match error {
        Error::General(why) => format!("tls: failed to parse private key: {why} ({key})"),
        other => format!("{other} ({key})"),
    })?;
    // rustls would compare the two as well, but not where the certificate is of an old version.
    let signed = chain.first().and_then(|certificate| Signed::read(certificate));
    let signed = signed.ok_or_else(|| format!("x509: malformed certificate ({cert})"))?;
    if private.public_key().is_some_and(|public| *public != *signed.key) {
        return Err(format!("tls: private key does not match public key ({cert}, {key})"));
    }
    Ok(CertifiedKey::new(chain, private))
}

/// The certificates of a PEM file, of which there is one at least.
fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| format!("tls: failed to parse certificate PEM data: {error}"))?;
    if !found.is_empty() {
        return Ok(found);
    }
    let is_pem = text.windows(BEGIN.len()).any(|window| window == BEGIN);
    Err(match is_pem {
        true => "tls: failed to find \"CERTIFICATE\" PEM block in certificate input".to_owned(),
        false => "tls: failed to find any PEM data in certificate input".to_owned(),
    })
}

/// The key of a PEM file: PKCS#8, PKCS#1 or SEC1.
fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => "tls: failed to find any PEM data in key input".to_owned(),
        other => format!("tls: failed to parse private key PEM data: {other}"),
    })
}

/// Reads the authorities of a PEM file.
///
/// # Errors
/// When it cannot be read, or what it has is no certificate.
pub fn authorities(path: &str) -> Result<Authorities, String> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = found.map_err(|error| format!("failed to parse {path}: {error}"))?;
    Authorities::of(certificates)
        .map_err(|error| format!("x509: cannot take a certificate of {path} for an authority: {error}"))
}

/// The authorities that the system trusts; none if it keeps them elsewhere. What cannot be read of them is left out.
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` say where they are, as for every program in Go.
pub fn system_authorities() -> Authorities {
    let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let file = text("SSL_CERT_FILE");
    let files = file.as_deref().map_or_else(|| SYSTEM_ROOTS.to_vec(), |file| vec![file]);
    let folders = text("SSL_CERT_DIR");
    authorities_of(&files, folders.as_deref())
}

/// The authorities in the first of these files that is there, and in all files of folders, between which stands a
/// colon. Without such folders, the system's are looked at where there is no file.
fn authorities_of(files: &[&str], folders: Option<&str>) -> Authorities {
    let found = files.iter().find_map(|path| fs::read(path).ok());
    let folders: Vec<&str> = match folders {
        Some(folders) => folders.split(':').collect(),
        None if found.is_none() => SYSTEM_FOLDERS.to_vec(),
        None => Vec::new(),
    };
    let mut certificates: Vec<CertificateDer<'static>> = Vec::new();
    let mut add = |text: &[u8]| certificates.extend(CertificateDer::pem_slice_iter(text).flatten());
    add(&found.unwrap_or_default());
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read(entry.path()).ok()).for_each(|text| add(&text));
    }
    Authorities::of_system(certificates)
}

/// Reads a list of revoked certificates.
///
/// # Errors
/// When it cannot be read.
pub fn revoked(path: &str) -> Result<Revoked, String> {
    let bytes = read(path)?;
    let help =
        "the list of revoked certificates has to be in DER; of one in PEM, openssl crl -outform DER makes it";
    Revoked::read(&bytes).ok_or_else(|| format!("x509: malformed crl ({path}): {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    #[test]
    fn authorities_are_found_in_a_file_and_in_folders() {
        let root = std::env::temp_dir().join(format!("kevel-roots-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let path = |name: &str| root.join(name).display().to_string();
        for (folder, file) in [("", "bundle"), ("a", "one"), ("a", "two"), ("b", "three")] {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join(file), pem).unwrap();
        }
        fs::write(root.join("a").join("none"), "no certificate").unwrap();
        let (bundle, none) = (path("bundle"), path("none"));
        let folders = format!("{}:{}:{none}", path("a"), path("b"));
        let found = |files: &[&str], folders: Option<&str>| authorities_of(files, folders).roots.len();
        assert_eq!(found(&[&none, &bundle], None), 1);
        assert_eq!(found(&[&none], Some(&folders)), 3);
        assert_eq!(found(&[&bundle], Some(&folders)), 4);
        assert_eq!(found(&[&none], Some(&none)), 0);
        fs::remove_dir_all(&root).unwrap();
    }
}
