//! Where connections to a secured port come in on one core: the handshake, who may come, and the line in the log about
//! who may not.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::handshake::{self, Handshakes, Refusal, Welcomed};
use super::port::Port;
use super::san::Addresses;
use super::stream::TlsStream;
use crate::config::LogLevel;
use crate::server::io::clock;
use crate::server::io::tcp::Tcp;
use crate::server::log::Line;
use crate::server::metrics;

/// A secured port on one core.
pub struct Door {
    /// What secures it.
    pub port: Arc<Port>,
    /// The core's handshakes.
    pub handshakes: Rc<Handshakes>,
    /// What the core counts.
    pub counts: Arc<metrics::Core>,
    /// Where a client's address has to be one that its certificate is for: what finds out.
    pub addresses: Option<Addresses>,
}

impl Door {
    /// Lets a client in who has connected, and of whom the `first` bytes have been read. Says its common name, if it
    /// is known by that. The log says why one was not let in.
    pub async fn welcome(
        &self,
        tcp: Tcp,
        first: &[u8],
        peer: SocketAddr,
    ) -> Option<(TlsStream, Option<Rc<str>>)> {
        match self.try_welcome(tcp, first, peer).await {
            Ok(welcomed) => {
                self.counts.handshakes.inc();
                let certificate = welcomed.certificate.filter(|_| self.port.knows_clients());
                Some((welcomed.stream, certificate.map(|facts| facts.common_name.as_str().into())))
            }
            Err(refusal) => {
                self.counts.handshakes_refused.inc();
                self.log(peer, &refusal);
                None
            }
        }
    }

    async fn try_welcome(&self, tcp: Tcp, first: &[u8], peer: SocketAddr) -> Result<Welcomed, Refusal> {
        let deadline = clock::now() + handshake::PATIENCE;
        let live = self.port.live();
        let Some(config) = live.server else {
            return Err(Refusal::new("tls: no certificates configured"));
        };
        let welcomed = self.handshakes.accept(tcp, first, config, live.revoked.as_deref()).await?;
        if let Some(addresses) = &self.addresses
            && let Some(facts) = &welcomed.certificate
            && let Err(why) = addresses.check(facts, peer.ip(), deadline).await
        {
            let Welcomed { certificate, server_name, .. } = welcomed;
            return Err(Refusal { why, is_end: false, server_name, certificate });
        }
        Ok(welcomed)
    }

    /// etcd's line about who was not let in. Who has merely gone is no matter for everybody.
    fn log(&self, peer: SocketAddr, refusal: &Refusal) {
        let level = if refusal.is_end { LogLevel::Debug } else { LogLevel::Warn };
        let line = Line::new(level, format!("rejected connection on {} endpoint", self.port.side.name()))
            .text("remote-addr", peer.to_string())
            .text("server-name", &refusal.server_name);
        let line = match &refusal.certificate {
            None => line,
            Some(facts) => line
                .texts("ip-addresses", facts.addresses.iter().map(ToString::to_string))
                .texts("dns-names", &facts.dns_names),
        };
        line.text("error", &refusal.why).write();
    }
}
