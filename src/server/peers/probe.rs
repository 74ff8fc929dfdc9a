//! How long a member takes to answer, and whether its clock goes as this one's does.
#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Ask, Connection};
use super::link::Link;
use super::switchboard::Switchboard;
use crate::server::io::{clock, task};
use crate::server::log::Line;
use crate::stdx::time::Duration;

/// Time between two probes, etcd's own figure.
const INTERVAL: Duration = Duration::from_secs(4);
/// What two clocks may differ by, etcd's own figure.
const DRIFT_MAX: Duration = Duration::from_secs(1);

/// What a member answers to a probe.
#[derive(Deserialize)]
struct Health {
    /// Its time.
    #[serde(rename = "Now")]
    now: String,
}

/// Probes a member for as long as it belongs to the cluster.
pub async fn run(switchboard: Rc<Switchboard>, link: Rc<Link>) {
    let mut is_well = true;
    while !link.is_gone() {
        task::sleep(INTERVAL).await;
        let probed = probe(&switchboard, &link).await;
        match &probed {
            Ok((took, drift)) => {
                link.contact().answered_in(*took);
                if *drift > DRIFT_MAX {
                    Line::warn("prober found high clock drift")
                        .id("remote-peer-id", link.id)
                        .duration("clock-drift", *drift)
                        .duration("rtt", *took)
                        .write();
                }
            }
            // Said once as long as it goes on.
            Err(error) if is_well && !link.is_gone() => Line::warn("prober detected unhealthy status")
                .id("remote-peer-id", link.id)
                .text("error", error.to_string())
                .write(),
            Err(_) => {}
        }
        is_well = probed.is_ok();
    }
}

/// How long the member takes to answer on a connection that is there, and how much its clock differs.
async fn probe(switchboard: &Switchboard, link: &Link) -> io::Result<(Duration, Duration)> {
    let own = switchboard.own();
    let mut connection = Connection::dial(own, &link.url()?).await?;
    let (began, began_at) = (clock::now(), clock::wall_nanos());
    let ask = Ask { method: "GET", path: "/raft/probing", to: None, content: None };
    let reply = connection.ask(own, &ask).await?;
    let body = connection.read_whole(reply.body).await?;
    let took = clock::now().since(began);
    let health: Health = serde_json::from_slice(&body).map_err(io::Error::other)?;
    let theirs = OffsetDateTime::parse(&health.now, &Rfc3339).map_err(io::Error::other)?;
    // Its clock was read in the middle, about.
    let ours = i128::from(began_at) + took.as_nanos() as i128 / 2;
    let drift = (theirs.unix_timestamp_nanos() - ours).unsigned_abs();
    Ok((took, Duration::from_nanos(u64::try_from(drift).unwrap_or(u64::MAX))))
}
