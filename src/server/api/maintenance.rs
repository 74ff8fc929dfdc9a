//! The Maintenance service, as far as it is built: status, hashes, alarms, defragmentation, leadership.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use prost::Message;

use super::answer::{Answer, Outcome};
use super::cluster::header;
use super::decode::{decode, decode_kept};
use super::digest::{self, HASH_SLICE};
use crate::cluster::members::cluster_version;
use crate::config::ETCD_VERSION;
use crate::error::Error;
use crate::mvcc::hash::KvHash;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, StatusRequest, StatusResponse,
};
use crate::replica::bucket_hash::BucketHash;
use crate::request::Kind;
use crate::server::grpc::{Code, Responder, Status};
use crate::server::io::{clock, task};
use crate::server::session::Session;
use crate::server::session::member_health::{alarms, is_learner};
use crate::snapshot::buckets::storage_version;

/// `Maintenance/Status`: this member's own view, without asking anybody.
pub fn status(session: &Rc<Session>, message: Bytes) -> Outcome {
    decode::<StatusRequest>(message)?;
    let gate = session.gate();
    let leader = gate.leader();
    let raised = alarms(session);
    let mut errors: Vec<String> = raised.iter().map(alarm_text).collect();
    if leader == 0 {
        errors.insert(0, Error::NoLeader.message().to_owned());
    }
    let (revision, is_learner) = (session.view(|view| view.revision()), is_learner(session)?);
    let (size, used) = session.member.store_bytes();
    let cluster = session.view(|view| cluster_version(view.read())).unwrap_or_default();
    let response = StatusResponse {
        header: header(session, revision),
        version: ETCD_VERSION.to_owned(),
        db_size: size,
        leader,
        raft_index: gate.committed(),
        raft_term: gate.term(),
        raft_applied_index: gate.applied(),
        errors,
        db_size_in_use: used,
        is_learner,
        storage_version: storage_version(&cluster).unwrap_or_default().to_owned(),
        db_size_quota: session.member.quota_bytes,
        downgrade_info: Some(DowngradeInfo::default()),
    };
    Ok(now(&response))
}

fn now(response: &impl Message) -> Answer {
    Answer::Now(response.encode_to_vec().into())
}

/// An alarm as Go prints the message.
fn alarm_text(alarm: &AlarmMember) -> String {
    let name = match AlarmType::try_from(alarm.alarm) {
        Ok(alarm) => alarm.as_str_name().to_owned(),
        Err(_) => alarm.alarm.to_string(),
    };
    // A field that is zero is not printed.
    match alarm.member_id {
        0 => format!("alarm:{name}"),
        id => format!("memberID:{id} alarm:{name}"),
    }
}

/// `Maintenance/Alarm`. Reading needs no entry in the log; raising and clearing do.
pub fn alarm(message: &Bytes) -> Outcome {
    let (request, message) = decode_kept::<AlarmRequest>(message)?;
    match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => Ok(Answer::read(move |session| Ok(raised_alarms(session, request.alarm)))),
        Ok(AlarmAction::Activate | AlarmAction::Deactivate) => Ok(Answer::propose(Kind::Alarm, message)),
        // etcd's process ends over it.
        Err(_) => {
            let text = format!("etcdserver: unknown alarm action {}", request.action);
            Err(Status::new(Code::InvalidArgument, text))
        }
    }
}

/// The alarms of one type, or of all.
fn raised_alarms(session: &Rc<Session>, of_type: i32) -> Answer {
    let mut raised = alarms(session);
    raised.retain(|alarm| of_type == AlarmType::None as i32 || alarm.alarm == of_type);
    let revision = session.view(|view| view.revision());
    now(&AlarmResponse { header: header(session, revision), alarms: raised })
}

/// `Maintenance/Defragment`: free space is reused and given back while the member runs; this has it done now.
pub fn defragment(message: Bytes) -> Outcome {
    decode::<DefragmentRequest>(message)?;
    Ok(Answer::later(|session, reply| {
        let began = clock::now();
        session.defragment(move |session, done| match done {
            Err(status) => reply.fail(&status),
            Ok(_) => {
                session.metrics.defragmented(clock::now().since(began));
                reply.send(Ok(DefragmentResponse { header: None }.encode_to_vec().into()));
            }
        });
    }))
}

/// `Maintenance/MoveLeader`. The replica knows whether it leads, and whether the other member can.
pub fn move_leader(message: Bytes) -> Outcome {
    let MoveLeaderRequest { target_id } = decode(message)?;
    Ok(Answer::later(move |session, reply| {
        session.move_leader(target_id, move |_, result| match result {
            Ok(_) => reply.send(Ok(MoveLeaderResponse { header: None }.encode_to_vec().into())),
            Err(status) => reply.fail(&status),
        });
    }))
}

/// `Maintenance/HashKV`.
pub fn hash_kv(session: &Rc<Session>, message: Bytes) -> Outcome {
    let request = decode::<HashKvRequest>(message)?;
    if let Some(hash) = digest::of_compaction(session, request.revision) {
        return Ok(now(&hash_response(session, hash)));
    }
    Ok(Answer::later(move |session, reply| {
        let session = session.clone();
        task::spawn(async move {
            match digest::history(&session, request.revision, || reply.is_wanted()).await {
                Ok(Some(hash)) => reply.send(Ok(hash_response(&session, hash).encode_to_vec().into())),
                Ok(None) => {}
                Err(error) => reply.fail(&error.into()),
            }
        });
    }))
}

fn hash_response(session: &Session, hash: KvHash) -> HashKvResponse {
    HashKvResponse {
        header: header(session, hash.revision),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    }
}

/// `Maintenance/Hash`: a digest of everything that etcd stores for the same history.
pub fn hash(message: Bytes) -> Outcome {
    decode::<HashRequest>(message)?;
    Ok(Answer::later(|session, reply| {
        task::spawn(digest_everything(session.clone(), reply));
    }))
}

async fn digest_everything(session: Rc<Session>, reply: Responder) {
    let place = session.digests.place();
    place.turn().await;
    if !reply.is_wanted() {
        return;
    }
    let began = clock::now();
    let mut digest = session.view(|view| BucketHash::new(view.read()));
    let hash = loop {
        match session.view(|view| digest.step(view.read(), HASH_SLICE)) {
            Ok(Some(hash)) => break hash,
            Ok(None) => {}
            Err(error) => return reply.fail(&error.into()),
        }
        task::yield_now().await;
        if !reply.is_wanted() {
            return;
        }
    };
    session.metrics.hashed(false, clock::now().since(began));
    let revision = session.view(|view| view.revision());
    let response = HashResponse { header: header(&session, revision), hash };
    reply.send(Ok(response.encode_to_vec().into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_printed_as_go_prints_them() {
        for (alarm, text) in [(1, "NOSPACE"), (2, "CORRUPT"), (0, "NONE"), (9, "9")] {
            let said = alarm_text(&AlarmMember { member_id: 7, alarm });
            assert_eq!(said, format!("memberID:7 alarm:{text}"));
        }
        assert_eq!(alarm_text(&AlarmMember { member_id: 0, alarm: 77 }), "alarm:77");
    }
}
