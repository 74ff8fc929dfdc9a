//! Where the load goes: endpoints, and what TLS needs to trust them.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use kevel::server::tls::provider::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

const DEFAULT_PORT: u16 = 2379;

/// One endpoint.
#[derive(Clone)]
pub struct Target {
    /// As the user wrote it.
    pub name: String,
    /// Where to connect.
    pub address: SocketAddr,
    /// Scheme and authority, before the path of each request.
    pub origin: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// The files and the choice that TLS depends on.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Endpoints")]
pub struct TlsArgs {
    /// Verify servers by the certificates in this PEM file
    #[arg(long, value_name = "FILE", global = true)]
    pub cacert: Option<std::path::PathBuf>,
    /// Identify with this PEM certificate
    #[arg(long, value_name = "FILE", requires = "key", global = true)]
    pub cert: Option<std::path::PathBuf>,
    /// The PEM key of --cert
    #[arg(long, value_name = "FILE", requires = "cert", global = true)]
    pub key: Option<std::path::PathBuf>,
    /// Accept any server certificate
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
}

impl Target {
    /// The endpoints of a list such as `https://10.0.0.1:2379,10.0.0.2:2379`. One without a scheme is https when
    /// TLS files are given.
    ///
    /// # Errors
    /// An endpoint that makes no sense or has no address, or a file that cannot be used.
    pub fn parse_all(endpoints: &[String], tls: &TlsArgs) -> Result<Vec<Target>, String> {
        let wants_tls = tls.cacert.is_some() || tls.cert.is_some() || tls.insecure_skip_tls_verify;
        let mut config = None;
        endpoints
            .iter()
            .map(|name| {
                let (secure, authority) = split(name, wants_tls);
                let (host, authority) = with_port(authority);
                let address = authority
                    .to_socket_addrs()
                    .map_err(|error| format!("endpoint {name}: {error}"))?
                    .next()
                    .ok_or_else(|| format!("endpoint {name} has no address"))?;
                let tls = if secure {
                    if config.is_none() {
                        config = Some(client_config(tls)?);
                    }
                    let server = ServerName::try_from(host.to_owned())
                        .map_err(|error| format!("endpoint {name}: {error}"))?;
                    config.clone().map(|config| (config, server))
                } else {
                    None
                };
                let scheme = if secure { "https" } else { "http" };
                Ok(Target { name: name.clone(), address, origin: format!("{scheme}://{authority}"), tls })
            })
            .collect()
    }

    /// A TLS session to begin, if the endpoint wants one.
    ///
    /// # Errors
    /// What rustls has against the server's name.
    pub fn tls(&self) -> Result<Option<ClientConnection>, String> {
        let Some((config, server)) = &self.tls else { return Ok(None) };
        let session =
            ClientConnection::new(config.clone(), server.clone()).map_err(|error| error.to_string())?;
        Ok(Some(session))
    }
}

/// Whether TLS, and the authority.
fn split(endpoint: &str, wants_tls: bool) -> (bool, &str) {
    let (secure, rest) = match endpoint.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some((_, rest)) => (false, rest),
        None => (wants_tls, endpoint),
    };
    (secure, rest.trim_end_matches('/'))
}

/// The host alone, and host and port.
fn with_port(authority: &str) -> (&str, String) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')) => {
            (host.trim_matches(['[', ']']), authority.to_owned())
        }
        _ => {
            let host = authority.trim_matches(['[', ']']);
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            (host, format!("{bracketed}:{DEFAULT_PORT}"))
        }
    }
}

fn client_config(args: &TlsArgs) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if args.insecure_skip_tls_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    } else {
        let file = args.cacert.as_deref().ok_or(
            "an https endpoint needs --cacert, or --insecure-skip-tls-verify: the system's certificates are not used",
        )?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(cert)?, secret)
                .map_err(|error| format!("{}: {error}", cert.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| format!("{}: {error}", file.display()))?;
    if found.is_empty() { Err(format!("{}: no certificate in it", file.display())) } else { Ok(found) }
}

/// Believes every certificate; signatures are still checked.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_may_leave_out_scheme_and_port() {
        assert_eq!(split("https://a:1/", false), (true, "a:1"));
        assert_eq!(split("http://a:1", true), (false, "a:1"));
        assert_eq!(split("a:1", true), (true, "a:1"));
        assert_eq!(with_port("a:1"), ("a", "a:1".to_owned()));
        assert_eq!(with_port("a"), ("a", "a:2379".to_owned()));
        assert_eq!(with_port("[::1]:5"), ("::1", "[::1]:5".to_owned()));
        assert_eq!(with_port("::1"), ("::1", "[::1]:2379".to_owned()));
    }

    #[test]
    fn https_without_trust_is_refused() {
        let refusal = Target::parse_all(&["https://127.0.0.1:1".to_owned()], &TlsArgs::default());
        assert!(refusal.err().is_some_and(|text| text.contains("--cacert")));
    }
}
