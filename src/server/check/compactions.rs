//! The leader compares the hashes that compactions took on the members.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::Checker;
use crate::cluster::corruption::{CompactChecks, Comparison, Outcome};
use crate::config::LogLevel;
use crate::error::Error;
use crate::mvcc::hash::KvHash;
use crate::server::io::task;
use crate::server::log::Line;
use crate::stdx::time::Duration;

/// Compares now and then, for as long as the executor runs.
pub(super) async fn run(checker: Rc<Checker>, interval: Duration) {
    let mut checks = CompactChecks::default();
    loop {
        task::sleep(interval).await;
        if !checker.leads() {
            continue;
        }
        Line::info("starting compact hash check")
            .id("local-member-id", checker.own.member_id)
            .duration("timeout", checker.own.request_timeout)
            .write();
        match check(&checker, &mut checks).await {
            Ok(checked) => Line::info("finished compaction hash check")
                .value("number-of-hashes-checked", checked)
                .write(),
            Err(error) => {
                Line::warn("failed to check hashes of compactions").text("error", error.message()).write();
            }
        }
    }
}

/// The number of hashes that were looked at.
async fn check(checker: &Checker, checks: &mut CompactChecks) -> Result<usize, Error> {
    let hashes = checks.unchecked(checker.session.member.compaction_hashes.list());
    let own_id = checker.own.member_id;
    for (number, hash) in hashes.iter().enumerate() {
        let told = checker.ask(hash.hash_revision).await?;
        if told.is_empty() {
            continue;
        }
        let found = checks.compare(own_id, hash, &told);
        report(own_id, hash, told.len(), &found);
        found.outcome.accused().into_iter().for_each(|id| checker.accuse(id));
        if found.outcome != Outcome::Incomplete {
            return Ok(number + 1);
        }
    }
    Ok(hashes.len())
}

fn report(own_id: u64, hash: &KvHash, peers: usize, found: &Comparison) {
    for (id, reason) in &found.skipped {
        Line::warn("Skipped peer's hash")
            .value("number-of-peers", peers)
            .id("leader-id", own_id)
            .id("peer-id", *id)
            .text("reason", reason)
            .write();
    }
    match &found.outcome {
        Outcome::Same => Line::info("successfully checked hash on whole cluster")
            .value("number-of-peers-checked", found.compared)
            .value("revision", hash.hash_revision)
            .value("compactRevision", hash.compact_revision)
            .write(),
        Outcome::Incomplete => {
            Line::warn("skipped revision in compaction hash check; was not able to check all peers")
                .value("number-of-peers-checked", found.compared)
                .value("number-of-peers", peers)
                .value("revision", hash.hash_revision)
                .value("compactRevision", hash.compact_revision)
                .write();
        }
        Outcome::Differs { suspects, has_quorum } => report_suspects(own_id, hash, suspects, *has_quorum),
    }
}

fn report_suspects(own_id: u64, hash: &KvHash, suspects: &[(u32, Vec<u64>)], has_quorum: bool) {
    let line = |message: &str| {
        Line::new(LogLevel::Error, message)
            .id("leader-id", own_id)
            .value("leader-revision", hash.hash_revision)
            .value("leader-compact-revision", hash.compact_revision)
            .value("leader-hash", hash.hash)
    };
    if !has_quorum {
        line(
            "Detected compaction hash mismatch but cannot identify the corrupted members, so intentionally set the \
             memberID as 0",
        )
        .write();
    }
    for (peer_hash, ids) in suspects {
        let ids: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
        line("Detected compaction hash mismatch")
            .value("peer-hash", peer_hash)
            .text("peer-ids", ids.join(","))
            .value("quorum-exist", has_quorum)
            .write();
    }
}
