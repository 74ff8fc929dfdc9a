//! Snapshots between members as this one sends and receives them: written by the replica core, read by whoever asks for
//! metrics.
//!
//! As in etcd, a series is there from the first time on that there is something to count. The locks guard the lists
//! alone; the numbers in them have one writer.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::{Buckets, Counter, Gauge, Histogram, Observed};
use super::text::{Families, Type};
use crate::stdx::time::Duration;

/// How long transfers take.
const DURATION: Buckets = Buckets::seconds(100_000, 10);
/// Members of whom each way keeps series. Whoever asks can name any number of members.
const MEMBERS_MAX: usize = 64;
/// Who has sent a snapshot of whom that is not known, in etcd's words.
const UNKNOWN: &str = "UNKNOWN_SNAPSHOT_SENDER";

/// All snapshots.
#[derive(Debug, Default)]
pub struct Transfers {
    sent: Way,
    received: Way,
}

/// One way, by the member on the other side; none where it is not known.
#[derive(Debug, Default)]
struct Way(Mutex<BTreeMap<Option<u64>, Arc<Transfer>>>);

/// The snapshots to a member, or from one.
#[derive(Debug, Default)]
pub struct Transfer {
    begun: Counter,
    under_way: Gauge,
    successes: Counter,
    failures: Counter,
    durations: Histogram,
}

/// A snapshot that is under way, until dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Transfer>);

/// What the families of one way are called, and their label.
struct Names {
    label: &'static str,
    under_way: &'static str,
    successes: &'static str,
    failures: &'static str,
    durations: &'static str,
    what: &'static str,
}

const SENT: Names = Names {
    label: "To",
    under_way: "etcd_network_snapshot_send_inflights_total",
    successes: "etcd_network_snapshot_send_success",
    failures: "etcd_network_snapshot_send_failures",
    durations: "etcd_network_snapshot_send_total_duration_seconds",
    what: "sent to other members",
};

const RECEIVED: Names = Names {
    label: "From",
    under_way: "etcd_network_snapshot_receive_inflights_total",
    successes: "etcd_network_snapshot_receive_success",
    failures: "etcd_network_snapshot_receive_failures",
    durations: "etcd_network_snapshot_receive_total_duration_seconds",
    what: "received from other members",
};

impl Transfers {
    /// The snapshots to a member.
    pub fn to(&self, id: u64) -> Arc<Transfer> {
        self.sent.of(Some(id))
    }

    /// The snapshots from a member; none if nobody knows from whom.
    pub fn from(&self, id: Option<u64>) -> Arc<Transfer> {
        self.received.of(id)
    }

    pub(super) fn write(&self, families: &mut Families) {
        self.sent.write(families, &SENT);
        self.received.write(families, &RECEIVED);
    }
}

impl Way {
    fn of(&self, id: Option<u64>) -> Arc<Transfer> {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = members.len() < MEMBERS_MAX || members.contains_key(&id);
        members.entry(id.filter(|_| has_room)).or_default().clone()
    }

    fn write(&self, families: &mut Families, names: &Names) {
        let members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, transfer) in &*members {
            let member = id.map_or_else(|| UNKNOWN.to_owned(), |id| format!("{id:x}"));
            transfer.write(families, names, &[(names.label, &member)]);
        }
    }
}

impl Transfer {
    /// A snapshot is under way from now on.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.begun.inc();
        self.under_way.add(1);
        UnderWay(self.clone())
    }

    /// One has come to its end, and took so long.
    pub fn succeed(&self, took: Duration) {
        self.successes.inc();
        self.durations.observe_duration(&DURATION, took);
    }

    /// One has not, or was refused.
    pub fn fail(&self) {
        self.failures.inc();
    }

    fn write(&self, families: &mut Families, names: &Names, labels: &[(&str, &str)]) {
        let what = names.what;
        if self.begun.get() > 0 {
            let (help, under_way) = (format!("Snapshots that are being {what}."), self.under_way.get());
            families.number(names.under_way, Type::Gauge, &help, labels, under_way as f64);
        }
        let counters = [
            (names.successes, &self.successes, format!("Snapshots {what}.")),
            (names.failures, &self.failures, format!("Snapshots not {what} as a whole.")),
        ];
        for (name, count, help) in counters.into_iter().filter(|(_, count, _)| count.get() > 0) {
            families.number(name, Type::Counter, &help, labels, count.get() as f64);
        }
        let mut observed = Observed::default();
        self.durations.add_to(&mut observed);
        if observed.count() > 0 {
            let help = format!("Time of snapshots {what}.");
            families.histogram(names.durations, &help, labels, &DURATION, &observed);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(transfers: &Transfers) -> String {
        let mut families = Families::default();
        transfers.write(&mut families);
        families.finish()
    }

    #[test]
    fn series_come_with_what_they_count() {
        let transfers = Transfers::default();
        assert_eq!(text(&transfers), "");
        let to = transfers.to(0xab);
        let under_way = to.begin();
        assert!(text(&transfers).contains("etcd_network_snapshot_send_inflights_total{To=\"ab\"} 1\n"));
        assert!(!text(&transfers).contains("send_success"));
        to.succeed(Duration::from_millis(150));
        drop(under_way);
        transfers.from(None).fail();
        let text = text(&transfers);
        for series in [
            "# TYPE etcd_network_snapshot_send_inflights_total gauge\n",
            "etcd_network_snapshot_send_inflights_total{To=\"ab\"} 0\n",
            "# TYPE etcd_network_snapshot_send_success counter\n",
            "etcd_network_snapshot_send_success{To=\"ab\"} 1\n",
            "etcd_network_snapshot_send_total_duration_seconds_bucket{To=\"ab\",le=\"0.1\"} 0\n",
            "etcd_network_snapshot_send_total_duration_seconds_bucket{To=\"ab\",le=\"51.2\"} 1\n",
            "etcd_network_snapshot_receive_failures{From=\"UNKNOWN_SNAPSHOT_SENDER\"} 1\n",
        ] {
            assert!(text.contains(series), "{series}{text}");
        }
        assert!(!text.contains("send_failures") && !text.contains("receive_inflights"));
    }

    #[test]
    fn whoever_names_many_members_makes_few_series() {
        let transfers = Transfers::default();
        (0..1000).for_each(|id| transfers.from(Some(id)).fail());
        let lines = text(&transfers).lines().filter(|line| line.contains("From=")).count();
        assert_eq!(lines, MEMBERS_MAX + 1);
        assert!(text(&transfers).contains("{From=\"UNKNOWN_SNAPSHOT_SENDER\"} 936\n"));
        assert!(text(&transfers).contains("{From=\"0\"} 1\n"));
    }
}
