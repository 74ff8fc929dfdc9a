//! TLS at the ports for clients, for metrics and for other members, by rustls, with the flags and the rules of etcd.
//!
//! ```text
//!   files ──▶ port ──▶ handshake ──▶ stream ──▶ HTTP/2, HTTP/1.1, the peer protocol
//!               ▲          │
//!             keeper     workers
//! ```
//!
//! ```text
//!   port       what secures a port: made from its files, and anew when they change
//!   keeper     the thread that looks at the files
//!   self_signed  a certificate that the member makes for itself
//!   files      certificates, keys, authorities and revocations as they lie on the disk
//!   provider   suites, curves and signatures
//!   authorities  certificates that are trusted
//!   x509       what a certificate says
//!   expiry     when a certificate ends, and when to say so
//!   verify     whether the other side's certificate is taken
//!   san        whether a client comes from where its certificate says
//!   door       where connections come in on one core
//!   handshake  the handshakes of one core, bounded in number and time
//!   workers    threads for what is slow in them
//!   stream     a connection behind its handshake
//!   errors     why a handshake failed, in the words of Go
//! ```
//!
//! # Why so
//!
//! - AWS-LC does the cryptography. It is built with a C compiler alone, knows the curve P-521, which etcd's members put
//!   into the certificates that they make for themselves, and has AES-GCM for AVX-512.
//! - Streams are a type of their own and not a variant of plain ones. What serves a connection is compiled for each, so
//!   that one without TLS pays nothing.
//! - The slow half of a handshake runs on threads. A flood of handshakes then costs those who are served a share of the
//!   CPUs, and no millisecond at a time.
//! - Sessions are not taken up again: each connection is verified by the files of its moment.
//!
//! Ports, their configurations and the threads are shared by the cores, a lock being taken once for each handshake.
//! Everything else lives on one core. Absent: TLS in the kernel, HTTP/1.1's endpoints over HTTP/2.
#![forbid(unsafe_code)]

mod authorities;
pub mod door;
mod errors;
mod expiry;
mod files;
pub mod handshake;
pub mod keeper;
pub mod port;
pub mod provider;
pub mod san;
mod self_signed;
pub mod stream;
#[cfg(test)]
mod tests;
mod verify;
pub mod workers;
pub mod x509;

use std::net::IpAddr;
use std::sync::Arc;

use port::{Port, Side};
use workers::Workers;

use crate::config::tls::{Tls, TlsFiles, TlsVersion};
use crate::config::{Config, Url};

/// The secured ports of a member.
#[derive(Clone)]
pub struct Ports {
    /// The ones for clients, unless none of them is secured.
    pub client: Option<Arc<Port>>,
    /// The ones for other members, unless nothing was said about their security.
    pub peer: Option<Arc<Port>>,
    /// Threads for handshakes with clients; none where those are not secured.
    pub workers: Option<Workers>,
    /// The thread for handshakes with other members, likewise.
    pub peer_workers: Option<Workers>,
    /// The address of this machine from which other members are called, where the kernel is not to choose it: they may
    /// compare it with the certificate.
    pub local: Option<IpAddr>,
}

impl Ports {
    /// Nothing is secured.
    pub fn none() -> Self {
        Self { client: None, peer: None, workers: None, peer_workers: None, local: None }
    }

    /// Nothing but what secures connections that are dialled, by these files.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense, or a thread cannot be started.
    pub fn to_dial(files: TlsFiles) -> Result<Self, String> {
        let tls = Tls {
            client: TlsFiles::default(),
            peer: files,
            validity_years: 1,
            cipher_suites: Vec::new(),
            min: TlsVersion::V12,
            max: TlsVersion::V13,
        };
        let port = Port::open(&tls, Side::Peer)?;
        let workers = Workers::start_for_peers().map_err(|error| error.to_string())?;
        let (peer, peer_workers) = (Some(Arc::new(port)), Some(workers));
        Ok(Self { client: None, peer, workers: None, peer_workers, local: None })
    }

    /// Reads the files of all ports that are secured, for a machine with so many CPUs.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense, or a thread cannot be started.
    pub fn open(config: &Config, cpus: usize) -> Result<Self, String> {
        let (tls, listen) = (&config.tls, &config.listen);
        let for_clients = [&listen.client, &listen.client_http, &listen.metrics];
        let is_client = for_clients.into_iter().flatten().any(Url::is_tls);
        let is_peer = !tls.peer.is_empty()
            || !tls.peer.trusted_ca.is_empty()
            || listen.peer.iter().chain(&config.advertise.peer).any(Url::is_tls)
            || config.founding.initial_cluster.contains("=https://");
        let open = |side: Side| {
            let (files, urls) = match side {
                Side::Client => (&tls.client, [&listen.client[..], &listen.client_http]),
                Side::Peer => (&tls.peer, [&listen.peer[..], &[]]),
            };
            if files.is_self_signed {
                let hosts: Vec<String> = urls.concat().into_iter().map(|url| url.host).collect();
                self_signed::make(files, hosts, tls.validity_years)?;
            }
            Port::open(tls, side).map(Arc::new)
        };
        let client = is_client.then(|| open(Side::Client)).transpose()?;
        let peer = is_peer.then(|| open(Side::Peer)).transpose()?;
        let failed = |error| format!("cannot start a thread for handshakes: {error}");
        let workers = client.as_ref().map(|_| Workers::start(cpus)).transpose().map_err(failed)?;
        let peer_workers = peer.as_ref().map(|_| Workers::start_for_peers()).transpose().map_err(failed)?;
        Ok(Self { client, peer, workers, peer_workers, local: config.local_address() })
    }
}
