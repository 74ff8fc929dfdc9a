//! What the flags of TLS say: which files, which versions and cipher suites, and what etcd refuses of them.
//!
//! The files themselves are read by `server/tls`.
#![forbid(unsafe_code)]

use std::path::Path;

use super::settings::{Notice, Settings};
use super::{Listen, Scheme, Url};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// What secures one kind of port. Empty texts stand for files that were not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead from it to an authority.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// What this process shows as a client, where that is another certificate.
    pub client_cert: String,
    /// Its key.
    pub client_key: String,
    /// Authorities that sign the certificates of the other side.
    pub trusted_ca: String,
    /// Certificates that are revoked.
    pub crl: String,
    /// Clients have to show a certificate.
    pub client_cert_auth: bool,
    /// Common names that the other side's certificate may have; empty for any.
    pub allowed_cns: Vec<String>,
    /// Host names or addresses one of which the other side's certificate must be for; empty for any.
    pub allowed_hostnames: Vec<String>,
    /// A client's address is not compared with its certificate.
    pub skips_client_san: bool,
    /// Certificate and key are made by this member, and no other member's certificate is verified.
    pub is_self_signed: bool,
    /// The certificates of servers that are dialled are not verified.
    pub trusts_anybody: bool,
    /// The name for which the certificate of a server has to be that is dialled, whatever its host is called; empty for
    /// the host.
    pub server_name: String,
}

impl TlsFiles {
    /// Whether there is neither a certificate nor a key, so that nothing is secured.
    pub fn is_empty(&self) -> bool {
        self.cert.is_empty() && self.key.is_empty()
    }

    /// Certificate and key that this process shows as a client.
    pub fn as_client(&self) -> (&str, &str) {
        if self.client_cert.is_empty() {
            (&self.cert, &self.key)
        } else {
            (&self.client_cert, &self.client_key)
        }
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The client port's, and that of metrics.
    pub client: TlsFiles,
    /// The peer port's, and that of connections to other members.
    pub peer: TlsFiles,
    /// Years for which a certificate is valid that is made here.
    pub validity_years: u64,
    /// Suites of TLS 1.2 to offer, by the names of the standard, in the order given; empty for all.
    pub cipher_suites: Vec<String>,
    /// The oldest version to speak.
    pub min: TlsVersion,
    /// The newest version to speak.
    pub max: TlsVersion,
}

/// Suites of TLS 1.2 that Kevel has.
pub const SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Names that Go gives to some of them too.
const ALIASES: [(&str, &str); 2] = [
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Suites of TLS 1.3, which are always offered.
const SUITES_13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Suites that Go has besides: without forward secrecy, or with ciphers that are broken or nearly so.
const SUITES_WEAK: [&str; 16] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// Reads the flags, for a member that listens there and keeps its data in `data_dir`.
///
/// # Errors
/// What etcd refuses.
pub(super) fn read(
    settings: &Settings,
    listen: &Listen,
    data_dir: &Path,
) -> Result<(Tls, Vec<Notice>), String> {
    let mut notices = Vec::new();
    let (min, max) = versions(settings)?;
    let cipher_suites = cipher_suites(settings, min, max, &mut notices)?;
    let mut tls = Tls {
        client: files(settings, &CLIENT),
        peer: files(settings, &PEER),
        validity_years: settings.uint("self-signed-cert-validity"),
        cipher_suites,
        min,
        max,
    };
    for (names, files) in [(&PEER, &mut tls.peer), (&CLIENT, &mut tls.client)] {
        if !settings.bool(names.auto) {
            continue;
        }
        if !files.is_empty() {
            notices.push(Notice::warn(format!("ignoring {} auto TLS since certs given", names.port)));
        } else if tls.validity_years == 0 {
            return Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned());
        } else {
            *files = self_signed(&data_dir.join("fixtures").join(names.port));
        }
    }
    listeners(&tls, listen, &mut notices)?;
    Ok((tls, notices))
}

/// The names of flags that mean the same for both ports.
struct Names {
    port: &'static str,
    cert: &'static str,
    key: &'static str,
    client_cert: &'static str,
    client_key: &'static str,
    trusted_ca: &'static str,
    crl: &'static str,
    auth: &'static str,
    auto: &'static str,
    allowed_cns: &'static str,
    allowed_hostnames: &'static str,
    skips_client_san: Option<&'static str>,
}

const CLIENT: Names = Names {
    port: "client",
    cert: "cert-file",
    key: "key-file",
    client_cert: "client-cert-file",
    client_key: "client-key-file",
    trusted_ca: "trusted-ca-file",
    crl: "client-crl-file",
    auth: "client-cert-auth",
    auto: "auto-tls",
    allowed_cns: "client-cert-allowed-cn",
    allowed_hostnames: "client-cert-allowed-hostname",
    // The client port compares no addresses.
    skips_client_san: None,
};

const PEER: Names = Names {
    port: "peer",
    cert: "peer-cert-file",
    key: "peer-key-file",
    client_cert: "peer-client-cert-file",
    client_key: "peer-client-key-file",
    trusted_ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    auth: "peer-client-cert-auth",
    auto: "peer-auto-tls",
    allowed_cns: "peer-cert-allowed-cn",
    allowed_hostnames: "peer-cert-allowed-hostname",
    skips_client_san: Some("peer-skip-client-san-verification"),
};

fn files(settings: &Settings, names: &Names) -> TlsFiles {
    let text = |name| settings.text(name).to_owned();
    let words = |name| match settings.text(name) {
        "" => Vec::new(),
        _ => settings.words(name).into_iter().map(str::to_owned).collect(),
    };
    TlsFiles {
        cert: text(names.cert),
        key: text(names.key),
        client_cert: text(names.client_cert),
        client_key: text(names.client_key),
        trusted_ca: text(names.trusted_ca),
        crl: text(names.crl),
        client_cert_auth: settings.bool(names.auth),
        allowed_cns: words(names.allowed_cns),
        allowed_hostnames: words(names.allowed_hostnames),
        skips_client_san: names.skips_client_san.is_some_and(|name| settings.bool(name)),
        ..TlsFiles::default()
    }
}

/// A certificate that is made here takes the place of everything else that was said about the port.
fn self_signed(dir: &Path) -> TlsFiles {
    let file = |name| dir.join(name).display().to_string();
    TlsFiles {
        cert: file("cert.pem"),
        key: file("key.pem"),
        client_cert: file("cert.pem"),
        client_key: file("key.pem"),
        is_self_signed: true,
        ..TlsFiles::default()
    }
}

fn versions(settings: &Settings) -> Result<(TlsVersion, TlsVersion), String> {
    let version = |flag| match settings.text(flag) {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(TlsVersion::V12)),
        "TLS1.3" => Ok(Some(TlsVersion::V13)),
        other => Err(format!("unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)")),
    };
    let (min, max) = (version("tls-min-version")?, version("tls-max-version")?);
    let (min, max) = (min.unwrap_or(TlsVersion::V12), max.unwrap_or(TlsVersion::V13));
    if min > max {
        return Err(format!(
            "min version ({}) is greater than max version ({})",
            settings.text("tls-min-version"),
            settings.text("tls-max-version")
        ));
    }
    Ok((min, max))
}

fn cipher_suites(
    settings: &Settings,
    min: TlsVersion,
    max: TlsVersion,
    notices: &mut Vec<Notice>,
) -> Result<Vec<String>, String> {
    if !settings.is_set("cipher-suites") {
        return Ok(Vec::new());
    }
    if min == TlsVersion::V13 {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
    }
    let (mut suites, mut lacking) = (Vec::new(), Vec::new());
    for name in settings.words("cipher-suites") {
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        let name = alias.map_or(name, |(_, name)| name);
        match name {
            _ if SUITES.contains(&name) => suites.push(name.to_owned()),
            _ if SUITES_13.contains(&name) => {}
            _ if SUITES_WEAK.contains(&name) => lacking.push(name),
            _ => return Err(format!("unexpected TLS cipher suite {name:?}")),
        }
    }
    if !lacking.is_empty() {
        let message = "left out TLS cipher suites that are too weak to be offered";
        notices.push(Notice::warn(message).with("cipher-suites", lacking.join(",")));
    }
    if suites.is_empty() && max == TlsVersion::V12 {
        let known = SUITES.join(", ");
        return Err(format!("--cipher-suites names none of TLS 1.2 that is offered; there are {known}"));
    }
    if suites.is_empty() {
        notices.push(Notice::warn("no TLS cipher suite of TLS 1.2 is left: only TLS 1.3 is spoken"));
        suites.extend(SUITES_13.map(str::to_owned));
    }
    Ok(suites)
}

/// Compares the URLs of listeners with what there is to secure them.
fn listeners(tls: &Tls, listen: &Listen, notices: &mut Vec<Notice>) -> Result<(), String> {
    for url in &listen.peer {
        if url.scheme == Scheme::Http {
            ignored(&tls.peer, "scheme is HTTP", "--peer-client-cert-auth", ("peer-url", url), notices);
        } else if url.is_tls() && tls.peer.is_empty() {
            let at = url.authority();
            return Err(format!("cannot listen on TLS for {at}: KeyFile and CertFile are not presented"));
        }
    }
    for url in listen.client.iter().chain(&listen.client_http) {
        if !url.is_tls() {
            let scheme = "scheme is http or unix";
            ignored(&tls.client, scheme, "--client-cert-auth", ("client-url", url), notices);
        } else if tls.client.is_empty() {
            return Err(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ));
        }
    }
    if listen.metrics.iter().any(Url::is_tls) && tls.client.is_empty() {
        return Err("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
            .to_owned());
    }
    Ok(())
}

/// Says of a listener without TLS what it does not look at.
fn ignored(
    files: &TlsFiles,
    scheme: &str,
    auth: &str,
    (name, url): (&'static str, &Url),
    notices: &mut Vec<Notice>,
) {
    if !files.is_empty() {
        let message = format!("{scheme} while key and cert files are present; ignoring key and cert files");
        notices.push(Notice::warn(message).with(name, url.to_string()));
    }
    if files.client_cert_auth {
        let message = format!("{scheme} while {auth} is enabled; ignoring client cert auth for this URL");
        notices.push(Notice::warn(message).with(name, url.to_string()));
    }
}
