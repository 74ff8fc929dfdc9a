//! A certificate that the member makes for itself, for `--auto-tls` and `--peer-auto-tls`. It lies where etcd puts its
//! own, and one that lies there already is used.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P521_SHA512,
};
use time::{Duration, OffsetDateTime};

use crate::config::tls::TlsFiles;
use crate::server::io::dir;
use crate::server::log::Line;

/// The longest validity: certificates cannot say a later year than 9999.
const YEARS_MAX: u64 = 7000;

/// Makes certificate and key for these hosts, unless both are there.
///
/// # Errors
/// When they cannot be made or written.
pub fn make(files: &TlsFiles, hosts: Vec<String>, years: u64) -> Result<(), String> {
    let (cert_path, key_path) = (Path::new(&files.cert), Path::new(&files.key));
    if cert_path.exists() && key_path.exists() {
        return Ok(());
    }
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    let folder = cert_path.parent().unwrap_or(Path::new("."));
    dir::create(folder).map_err(|error| failed(&format!("create {}", folder.display()), &error))?;
    // One without the other belongs to nothing. A process that is killed between the two files would leave it beside
    // one that it does not fit, and the two would never be made again.
    let removed = remove(cert_path).and_then(|()| remove(key_path)).and_then(|()| dir::sync(folder));
    removed.map_err(|error| failed(&format!("clean {}", folder.display()), &error))?;
    let (params, end) = params(hosts, years).map_err(|error| failed("generate a certificate", &error))?;
    Line::warn("automatically generate certificates")
        .time("certificate-validity-bound-not-after", SystemTime::from(end))
        .write();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512);
    let key = key.map_err(|error| failed("generate a key", &error))?;
    let cert = params.self_signed(&key).map_err(|error| failed("generate a certificate", &error))?;
    let written = write(cert_path, &cert.pem(), 0o644);
    written.map_err(|error| failed(&format!("write {}", files.cert), &error))?;
    Line::info("created cert file").text("path", &files.cert).write();
    let written = write(key_path, &key.serialize_pem(), 0o600);
    written.map_err(|error| failed(&format!("write {}", files.key), &error))?;
    dir::sync(folder).map_err(|error| failed(&format!("sync {}", folder.display()), &error))?;
    Line::info("created key file").text("path", &files.key).write();
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the certificate says, as etcd's does, and until when it is valid.
fn params(hosts: Vec<String>, years: u64) -> Result<(CertificateParams, OffsetDateTime), rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = OffsetDateTime::now_utc();
    let end = now + Duration::days(365 * years.min(YEARS_MAX) as i64);
    (params.not_before, params.not_after) = (now, end);
    Ok((params, end))
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::SignatureScheme;

    use super::super::files;
    use super::super::provider::provider;

    #[test]
    fn certificate_and_key_fit_though_the_process_has_ended_between_the_two() {
        let folder = std::env::temp_dir().join(format!("kevel-self-signed-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let named = TlsFiles { cert: path("cert.pem"), key: path("key.pem"), ..TlsFiles::default() };
        let make = || make(&named, vec!["localhost".into()], 1);
        let fits = || files::certified_key(&named.cert, &named.key, &provider());
        make().unwrap();
        let made = fits().unwrap();
        assert!(made.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP521_SHA512]).is_some(), "as etcd's");
        // The certificate has gone, and the key cannot be written again at first.
        fs::remove_file(&named.cert).unwrap();
        fs::create_dir(path("key.tmp")).unwrap();
        assert!(make().unwrap_err().contains("key.pem"));
        fs::remove_dir(path("key.tmp")).unwrap();
        make().unwrap();
        fits().unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
