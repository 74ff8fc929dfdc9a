//! What secures one kind of port: the configurations that handshakes begin with, made from files and made anew when the
//! files change.
//!
//! ```text
//!   files ── open ──▶ Live ◀── each handshake takes the one of its moment
//!     │                ▲
//!     └── look, each second, by a thread: what has changed and can be read takes the place of what was there
//! ```
//!
//! Connections that are open keep what they began with. A file that cannot be read, or does not fit the others, changes
//! nothing and is said in the log, once for each change and each hour. It is tried again each minute: a process that
//! has no descriptor left at that moment, or a folder that is out of reach, leaves no mark on a file.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use super::authorities::Authorities;
use super::expiry::Expiry;
use super::files;
use super::provider::provider;
use super::verify::{Allowed, Clients, Servers};
use super::x509::Revoked;
use crate::config::tls::{Tls, TlsFiles, TlsVersion};
use crate::server::log::Line;

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one for clients, of all kinds.
    Client,
    /// The one for other members.
    Peer,
}

impl Side {
    /// As etcd's lines name it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Peer => "peer",
        }
    }
}

/// What secures a port now.
#[derive(Clone)]
pub struct Live {
    /// For connections that are accepted; none if there is no certificate.
    pub server: Option<Arc<ServerConfig>>,
    /// For connections that are dialled; only at the peer port.
    pub client: Option<Arc<ClientConfig>>,
    /// Certificates that are taken no more.
    pub revoked: Option<Arc<Revoked>>,
}

/// What secures a port.
pub struct Port {
    /// Which.
    pub side: Side,
    /// What the flags say of it.
    pub files: TlsFiles,
    rules: Rules,
    live: RwLock<Live>,
    seen: Mutex<Seen>,
}

/// The files as they were when they were last looked at.
struct Seen {
    stamps: Vec<Option<Stamp>>,
    expiry: Expiry,
    /// They could not be used. What was wrong may not be the files' fault, so they are tried again.
    failed: Option<Failed>,
}

/// When changed files could not be used, in seconds of Unix time.
struct Failed {
    tried: i64,
    said: i64,
    why: String,
}

/// Seconds between two tries to use files that could not be used, and have not changed since.
const RETRY_SECONDS: i64 = 60;
/// Seconds between two lines about that.
const SAY_SECONDS: i64 = 60 * 60;

/// What tells a file from one that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

/// Versions and cipher suites.
struct Rules {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Rules {
    fn new(tls: &Tls) -> Self {
        let mut provider = provider();
        if !tls.cipher_suites.is_empty() {
            // Those of TLS 1.3 cannot be chosen, as with etcd.
            provider.cipher_suites.retain(|suite| {
                let name = format!("{:?}", suite.suite());
                suite.tls13().is_some() || tls.cipher_suites.contains(&name)
            });
        }
        let versions = [(TlsVersion::V13, &TLS13), (TlsVersion::V12, &TLS12)].into_iter();
        let spoken = versions.filter(|(version, _)| (tls.min..=tls.max).contains(version));
        Self { provider: Arc::new(provider), versions: spoken.map(|(_, version)| version).collect() }
    }
}

impl Port {
    /// Reads the files of a port.
    ///
    /// # Errors
    /// When one cannot be read, or they do not fit one another.
    pub fn open(tls: &Tls, side: Side) -> Result<Self, String> {
        let files = if side == Side::Client { &tls.client } else { &tls.peer }.clone();
        let rules = Rules::new(tls);
        let stamps = stamps(&files);
        let (live, expiry) = load(&files, side, &rules)?;
        let seen = Mutex::new(Seen { stamps, expiry, failed: None });
        Ok(Self { side, files, rules, live: RwLock::new(live), seen })
    }

    /// What secures the port now.
    pub fn live(&self) -> Live {
        // A thread that held the lock and panicked has taken the process with it.
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name for which the certificate of a server has to be that is dialled at this host.
    pub fn server_name<'a>(&'a self, host: &'a str) -> &'a str {
        if self.files.server_name.is_empty() { host } else { &self.files.server_name }
    }

    /// Whether who shows a certificate is known by the name in it.
    pub fn knows_clients(&self) -> bool {
        self.files.client_cert_auth
    }

    /// Seconds of Unix time until which the port's own certificate is valid.
    pub fn not_after(&self) -> i64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).expiry.not_after()
    }

    /// Looks at the files, and takes those that have changed if they are good. Waits for the disk.
    pub fn look(&self, unix_seconds: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        let is_changed = stamps != seen.stamps;
        let is_due = seen.failed.as_ref().is_some_and(|failed| unix_seconds - failed.tried >= RETRY_SECONDS);
        if is_changed || is_due {
            seen.stamps = stamps;
            match load(&self.files, self.side, &self.rules) {
                Ok((live, expiry)) => {
                    self.take(live);
                    (seen.expiry, seen.failed) = (expiry, None);
                    self.line(Line::info("loaded changed TLS files; new connections use them")).write();
                }
                Err(why) => self.on_failure(&mut seen, is_changed, why, unix_seconds),
            }
        }
        if let Some(line) = seen.expiry.look(unix_seconds) {
            self.line(line).write();
        }
    }

    /// What was there before ends when nobody waits for the lock any more.
    fn take(&self, live: Live) {
        let before = {
            let mut place = self.live.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, live)
        };
        drop(before);
    }

    fn on_failure(&self, seen: &mut Seen, is_changed: bool, why: String, now: i64) {
        let said = seen
            .failed
            .take()
            .filter(|failed| !is_changed && failed.why == why && now - failed.said < SAY_SECONDS);
        if said.is_none() {
            let line = Line::warn("cannot use changed TLS files; the ones before them stay in use");
            self.line(line).text("error", &why).write();
        }
        let said = said.map_or(now, |failed| failed.said);
        seen.failed = Some(Failed { tried: now, said, why });
    }

    fn line(&self, line: Line) -> Line {
        let line = line.text("port", self.side.name()).text("cert-file", &self.files.cert);
        line.text("trusted-ca-file", &self.files.trusted_ca)
    }
}

/// Every file of a port, as it is now; none where it is not there.
fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    let paths =
        [&files.cert, &files.key, &files.client_cert, &files.client_key, &files.trusted_ca, &files.crl];
    let stamp = |path: &&String| {
        let meta = std::fs::metadata(path).ok()?;
        Some(Stamp {
            file: (meta.dev(), meta.ino()),
            bytes: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    };
    paths.iter().map(stamp).collect()
}

fn load(files: &TlsFiles, side: Side, rules: &Rules) -> Result<(Live, Expiry), String> {
    let own = if files.is_empty() { None } else { Some(own(files, rules)?) };
    if files.client_cert.is_empty() != files.client_key.is_empty() {
        return Err(format!(
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}]",
            files.client_key, files.client_cert
        ));
    }
    if !files.is_empty() {
        check_allowed(files)?;
    }
    let as_client = match files.as_client() {
        ("", _) => None,
        (cert, key) => Some(files::certified_key(cert, key, &rules.provider)?),
    };
    let expiry = own.as_ref().map_or_else(Expiry::none, |own| Expiry::of(&own.cert));
    let server = own.map(|own| server(files, side, own, rules)).transpose()?;
    let client = (side == Side::Peer).then(|| client(files, as_client, rules)).transpose()?;
    let revoked = match files.crl.as_str() {
        "" => None,
        crl => Some(Arc::new(files::revoked(crl)?)),
    };
    Ok((Live { server, client, revoked }, expiry))
}

fn own(files: &TlsFiles, rules: &Rules) -> Result<CertifiedKey, String> {
    if files.cert.is_empty() || files.key.is_empty() {
        return Err(format!(
            "KeyFile and CertFile must both be present[key: {}, cert: {}]",
            files.key, files.cert
        ));
    }
    files::certified_key(&files.cert, &files.key, &rules.provider)
}

/// Whoever names both may mean that both have to fit, or that one has to: etcd starts with neither.
fn check_allowed(files: &TlsFiles) -> Result<(), String> {
    let (cns, hostnames) = (&files.allowed_cns, &files.allowed_hostnames);
    if cns.is_empty() || hostnames.is_empty() {
        return Ok(());
    }
    let quoted =
        |names: &[String]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ");
    let [cns, hostnames] = [cns, hostnames].map(|names| quoted(names));
    Err(format!(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[{cns}], hostnames=[{hostnames}])"
    ))
}

fn authorities(files: &TlsFiles) -> Result<Authorities, String> {
    match files.trusted_ca.as_str() {
        "" => Ok(files::system_authorities()),
        path => files::authorities(path),
    }
}

fn allowed(files: &TlsFiles) -> Allowed {
    Allowed { cns: files.allowed_cns.clone(), hostnames: files.allowed_hostnames.clone() }
}

/// For connections that are accepted.
fn server(
    files: &TlsFiles,
    side: Side,
    own: CertifiedKey,
    rules: &Rules,
) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(rules.provider.clone());
    let builder = builder.with_protocol_versions(&rules.versions).map_err(|error| error.to_string())?;
    let builder = if files.client_cert_auth || !files.trusted_ca.is_empty() {
        let clients = Clients::new(authorities(files)?, allowed(files), &rules.provider)?;
        builder.with_client_cert_verifier(Arc::new(clients))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.ignore_client_order = true;
    if side == Side::Client {
        // Who speaks both gets HTTP/1.1, which has the endpoints beside gRPC. gRPC's clients ask for HTTP/2 alone.
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    }
    // A session that is taken up again would bring along a certificate that nobody verifies.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For connections that are dialled.
fn client(files: &TlsFiles, own: Option<CertifiedKey>, rules: &Rules) -> Result<Arc<ClientConfig>, String> {
    let servers = if files.is_self_signed || files.trusts_anybody {
        Servers::any(&rules.provider)
    } else {
        Servers::new(authorities(files)?, allowed(files), &rules.provider)
    };
    let builder = ClientConfig::builder_with_provider(rules.provider.clone());
    let builder = builder.with_protocol_versions(&rules.versions).map_err(|error| error.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(servers));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tls::self_signed;
    use std::fs;

    #[test]
    fn files_that_could_not_be_read_are_tried_again_though_they_have_not_changed() {
        let folder = std::env::temp_dir().join(format!("kevel-port-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let path = |name: &str| folder.join(name).display().to_string();
        let files = TlsFiles { cert: path("cert.pem"), key: path("key.pem"), ..TlsFiles::default() };
        let make = || self_signed::make(&files, vec!["localhost".into()], 1).unwrap();
        make();
        let peer = files.clone();
        let (min, max) = (TlsVersion::V12, TlsVersion::V13);
        let tls = Tls { client: files.clone(), peer, validity_years: 1, cipher_suites: Vec::new(), min, max };
        let port = Port::open(&tls, Side::Client).unwrap();
        let first = port.live().server.unwrap();
        let is_first = || Arc::ptr_eq(&first, &port.live().server.unwrap());
        // A certificate without its key is said once, and tried a minute later.
        fs::remove_file(&files.key).unwrap();
        port.look(1000);
        let failed =
            |port: &Port| port.seen.lock().unwrap().failed.as_ref().map(|failed| (failed.tried, failed.said));
        assert_eq!(failed(&port), Some((1000, 1000)));
        for (now, expected) in [(1059, (1000, 1000)), (1060, (1060, 1000)), (4600, (4600, 4600))] {
            port.look(now);
            assert_eq!(failed(&port), Some(expected));
        }
        // The pair is there again, and a look has failed that has seen it so.
        make();
        port.seen.lock().unwrap().stamps = stamps(&files);
        port.look(4601);
        assert!(is_first());
        port.look(4660);
        assert!(!is_first() && failed(&port).is_none());
        fs::remove_dir_all(&folder).unwrap();
    }
}
