//! The leader compares its newest data with those of the other members.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::Checker;
use crate::cluster::corruption::{self, Later, Misfit, Told};
use crate::mvcc::hash::KvHash;
use crate::server::grpc::Status;
use crate::server::io::{clock, task};
use crate::server::log::Line;
use crate::stdx::time::Duration;

/// Compares now and then, for as long as the executor runs.
pub(super) async fn run(checker: Rc<Checker>, interval: Duration) {
    Line::info("enabled corruption checking")
        .id("local-member-id", checker.own.member_id)
        .duration("interval", interval)
        .write();
    let mut next = clock::now() + interval;
    loop {
        task::sleep(next.since(clock::now())).await;
        // A comparison that takes longer than the interval leaves one out.
        next = clock::now().max(next) + interval;
        if !checker.leads() {
            continue;
        }
        if let Err(status) = check(&checker).await {
            Line::warn("failed to check hash KV").text("error", status.message).write();
        }
    }
}

async fn check(checker: &Checker) -> Result<(), Status> {
    let before = checker.hash().await?;
    let told = checker.ask(before.hash_revision).await?;
    // Behind this nobody can have applied what this member has not.
    checker.session.read_barrier().await?;
    let later = later(checker, &before).await?;
    let misfits = corruption::periodic(checker.own.member_id, &before, &told, &later);
    for (id, misfit) in &misfits {
        report(*id, *misfit, &before, &told, &later);
    }
    if let Some((id, _)) = misfits.first() {
        checker.accuse(*id);
    }
    let answered = told.iter().filter(|told| told.hash.is_ok()).count();
    Line::info("finished peer corruption check").value("number-of-peers-checked", answered).write();
    Ok(())
}

/// What this member has now. The hash is taken again only where it can be compared.
async fn later(checker: &Checker, before: &KvHash) -> Result<Later, Status> {
    let (revision, compact_revision) =
        checker.session.view(|view| (view.revision(), view.compact_revision()));
    if (revision, compact_revision) != (before.hash_revision, before.compact_revision) {
        return Ok(Later { revision, compact_revision, hash: None });
    }
    let again = checker.hash().await?;
    let has_moved = again.hash_revision != revision || again.compact_revision != compact_revision;
    Ok(Later {
        revision: again.revision,
        compact_revision: again.compact_revision,
        hash: (!has_moved).then_some(again.hash),
    })
}

fn report(id: u64, misfit: Misfit, before: &KvHash, told: &[Told], later: &Later) {
    let hash = told.iter().find(|told| told.id == id).and_then(|told| told.hash.ok());
    let peer = hash.unwrap_or(*before);
    let line = match misfit {
        Misfit::OwnHash => Line::warn("found hash mismatch")
            .value("revision-1", before.hash_revision)
            .value("compact-revision-1", before.compact_revision)
            .value("hash-1", before.hash)
            .value("revision-2", later.revision)
            .value("compact-revision-2", later.compact_revision)
            .value("hash-2", later.hash.unwrap_or_default()),
        Misfit::Revision => Line::warn("revision from follower must be less than or equal to leader's")
            .value("leader-revision", later.revision)
            .value("follower-revision", peer.revision)
            .id("follower-peer-id", id),
        Misfit::CompactRevision => {
            Line::warn("compact revision from follower must be less than or equal to leader's")
                .value("leader-compact-revision", later.compact_revision)
                .value("follower-compact-revision", peer.compact_revision)
                .id("follower-peer-id", id)
        }
        Misfit::Hash => Line::warn("same compact revision then hashes must match")
            .value("leader-compact-revision", later.compact_revision)
            .value("leader-hash", before.hash)
            .value("follower-compact-revision", peer.compact_revision)
            .value("follower-hash", peer.hash)
            .id("follower-peer-id", id),
    };
    line.write();
}
