//! The thread that looks after the files of all secured ports, once a second.
//!
//! etcd reads the certificate and its key for each handshake, and never again the authorities. Here a change of any of
//! the files counts for every handshake that begins a second later, and no executor waits for a disk.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Ports;
use super::port::{Port, Side};
use crate::server::io::clock;
use crate::server::metrics;

/// Time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Starts the thread, if there is anything to look after. It ends when nobody else has the ports any more.
///
/// # Errors
/// When it cannot be started.
pub fn start(ports: &Ports, counts: &Arc<metrics::Core>) -> io::Result<()> {
    let ports: Vec<_> = [&ports.client, &ports.peer].into_iter().flatten().map(Arc::downgrade).collect();
    if ports.is_empty() {
        return Ok(());
    }
    let counts = counts.clone();
    thread::Builder::new().name("tls-files".into()).spawn(move || {
        loop {
            let living: Vec<Arc<Port>> = ports.iter().filter_map(std::sync::Weak::upgrade).collect();
            if living.is_empty() {
                return;
            }
            living.iter().for_each(|port| look(port, &counts));
            drop(living);
            thread::sleep(PAUSE);
        }
    })?;
    Ok(())
}

fn look(port: &Port, counts: &metrics::Core) {
    port.look((clock::wall_nanos() / NANOS_PER_SECOND) as i64);
    let end = port.not_after();
    if end != i64::MAX {
        counts.certificate_ends[usize::from(port.side == Side::Peer)].set(end);
    }
}
