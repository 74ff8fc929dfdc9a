//! A member that has data compares them with those of the other members before it serves.
#![forbid(unsafe_code)]

use crate::btree::{Reader, Store};
use crate::cluster::corruption::{self, Doubt, Told};
use crate::cluster::stored;
use crate::config::LogLevel;
use crate::error::{Error, RECOVERY};
use crate::mvcc::View;
use crate::mvcc::hash::{HashKv, KvHash};
use crate::server::log::Line;
use crate::server::peers::Own;
use crate::server::peers::hash_kv::{Other, ask_from_thread};

/// Changes digested from one state.
const SLICE: usize = 1 << 16;

/// Compares what the store has. Who cannot be compared speaks for nothing.
///
/// # Errors
/// When the data of another member differ, or when nothing can be compared.
pub fn check(store: &Store, own: Own) -> Result<(), String> {
    let own_id = own.member_id;
    Line::info("starting initial corruption check")
        .id("local-member-id", own_id)
        .duration("timeout", own.request_timeout)
        .write();
    compare(store, own).inspect_err(|error| {
        Line::new(LogLevel::Error, "checkInitialHashKV failed").text("error", error).write();
    })?;
    Line::info("initial corruption checking passed; no corruption").id("local-member-id", own_id).write();
    Ok(())
}

fn compare(store: &Store, own: Own) -> Result<(), String> {
    let own_id = own.member_id;
    let failed = |error: Error| format!("{own_id:x} failed to fetch hash ({})", error.message());
    let mut reader = store.readers().register();
    let hash = digest(&mut reader).map_err(failed)?;
    let members = stored::members(&reader.snapshot()).map_err(failed)?;
    let others = Other::among(members.into_iter().filter_map(|(_, member)| member), own_id);
    let told = ask_from_thread(own, others.clone(), hash.hash_revision)?;
    let mut differs = false;
    for (other, told) in others.iter().zip(&told) {
        if let Some(doubt) = corruption::initial(&hash, told) {
            report(own_id, &hash, other, told, doubt);
            differs |= doubt == Doubt::Hash;
        }
    }
    match differs {
        true => Err(format!("{own_id:x} found data inconsistency with peers; {RECOVERY}")),
        false => Ok(()),
    }
}

/// The hash of all that the store has. Nobody is served yet, so nobody waits.
fn digest(reader: &mut Reader) -> Result<KvHash, Error> {
    let mut hash = HashKv::new(&View::new(&reader.snapshot()), 0)?;
    loop {
        if let Some(hash) = hash.step(&View::new(&reader.snapshot()), SLICE)? {
            return Ok(hash);
        }
    }
}

fn report(own_id: u64, own: &KvHash, other: &Other, told: &Told, doubt: Doubt) {
    let line = Line::warn(doubt.text())
        .id("local-member-id", own_id)
        .value("local-member-revision", own.hash_revision)
        .value("local-member-compact-revision", own.compact_revision)
        .value("local-member-hash", own.hash)
        .id("remote-peer-id", other.id)
        .texts("remote-peer-endpoints", &other.urls);
    let line = match told.hash {
        Ok(hash) => line
            .value("remote-peer-revision", hash.revision)
            .value("remote-peer-compact-revision", hash.compact_revision)
            .value("remote-peer-hash", hash.hash),
        Err(_) => line,
    };
    line.write();
}
