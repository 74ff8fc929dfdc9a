//! What a member says of itself on the HTTP/1.1 endpoints.
#![forbid(unsafe_code)]

use std::rc::Rc;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};
use prost::Message;

use super::{Session, observer};
use crate::btree::{Read, Tree};
use crate::cluster::members::cluster_version;
use crate::config::ETCD_VERSION;
use crate::proto::etcdserverpb::{AlarmMember, AlarmType};
use crate::server::admin::{AdminSource, Versions};
use crate::server::io::clock;
use crate::server::metrics;
use crate::server::session::key_count;

/// The version of the storage: the release whose schema the store follows.
pub const STORAGE_VERSION: &str = "3.7.0";

/// A session core's view of the member.
pub struct MemberHealth(pub Rc<Session>);

/// The alarms that are raised, as the store has them.
pub fn alarms(session: &Session) -> Vec<AlarmMember> {
    session.view(|view| {
        let mut cursor = view.read().cursor(Tree::Alarm);
        cursor.seek(&[]);
        let mut alarms = Vec::new();
        while cursor.valid() {
            // A record that cannot be read is damage, which is an alarm itself.
            let unreadable = AlarmMember { member_id: 0, alarm: AlarmType::Corrupt as i32 };
            alarms.push(AlarmMember::decode(cursor.key()).unwrap_or(unreadable));
            cursor.next();
        }
        alarms
    })
}

impl AdminSource for MemberHealth {
    fn alarms(&self) -> Vec<&'static str> {
        let name = |alarm: &AlarmMember| match alarm.alarm() {
            AlarmType::Nospace => "NOSPACE",
            AlarmType::Corrupt => "CORRUPT",
            AlarmType::None => "UNKNOWN",
        };
        alarms(&self.0).iter().map(name).collect()
    }

    fn has_leader(&self) -> bool {
        self.0.gate().leader() != 0
    }

    fn is_learner(&self) -> bool {
        false
    }

    fn serializable_read(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        let asked = clock::now();
        // A look at one key of the published state: what is broken in the store file ends the process.
        self.0.view(|view| view.find(b"health", view.revision()).is_some());
        observer::probe(&self.0, asked, true);
        ready(Ok(())).boxed_local()
    }

    fn linearizable_read(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        let session = self.0.clone();
        async move {
            let asked = clock::now();
            let read = session.read_barrier().await.map_err(|status| status.message.into_owned());
            observer::probe(&session, asked, read.is_ok());
            read
        }
        .boxed_local()
    }

    fn versions(&self) -> Versions {
        Versions {
            server: ETCD_VERSION.to_owned(),
            cluster: self.0.view(|view| cluster_version(view.read())),
            storage: Some(STORAGE_VERSION.to_owned()),
        }
    }

    fn metrics(&self) -> LocalBoxFuture<'static, String> {
        let session = &self.0;
        key_count::learn_keys(session);
        let cluster_version = session.view(|view| cluster_version(view.read()));
        let short =
            cluster_version.as_deref().and_then(|version| version.rsplit_once('.')).map(|(short, _)| short);
        let text = metrics::scrape(&metrics::Sources {
            cores: &session.member.metrics,
            rpc: &session.member.rpc,
            member_id: session.member.member_id,
            cluster_version: short,
            gates: &session.member.gates,
        });
        ready(text).boxed_local()
    }

    fn count_check(&self, endpoint: &'static str, check: &'static str, passed: bool) {
        self.0.metrics.checks.count(endpoint, check, passed);
    }

    fn count_health(&self, healthy: bool) {
        let counter = if healthy { &self.0.metrics.health_success } else { &self.0.metrics.health_failures };
        counter.inc();
    }
}
