//! `/health`, `/livez` and `/readyz`.
#![forbid(unsafe_code)]

use super::{Admin, AdminSource};
use crate::server::http1::answer::Answer;
use crate::server::http1::query::Query;

const LIVEZ: &[&str] = &["serializable_read"];
const READYZ: &[&str] =
    &["data_corruption", "serializable_read", "linearizable_read", "non_learner", LOG_ROOM, STORE_ROOM];
/// Checks of Kevel's own. An answer names one only where it fails, or where it was asked for by name, so that a healthy
/// member answers with etcd's bytes.
const OWN: [&str; 2] = [LOG_ROOM, STORE_ROOM];
const LOG_ROOM: &str = "log_room";
const STORE_ROOM: &str = "store_room";

const NO_ROOM: &str = "the disk of the log is full: writes wait until there is room";
const NO_STORE_ROOM: &str =
    "the disk of the store file is full: writes fill memory and the log until there is room";

/// `/health`: alarms, then the leader, then a read. Whoever asks for more than a serializable read also hears of a full
/// disk, on which the log cannot go on; without room for the store file alone writes are still taken.
pub(super) async fn health(admin: &Admin, query: &Query<'_>) -> Answer {
    let source = &*admin.source;
    let reason = sickness(source, query).await;
    source.count_health(reason.is_none());
    match reason {
        None => Answer::text(200, r#"{"health":"true","reason":""}"#),
        Some(reason) => {
            let reason = serde_json::Value::from(reason);
            // http.Error of Go: a line of plain text, whatever it holds.
            Answer::error(503, &format!(r#"{{"health":"false","reason":{reason}}}"#))
        }
    }
}

async fn sickness(source: &dyn AdminSource, query: &Query<'_>) -> Option<String> {
    let excluded: Vec<_> = query.values("exclude").collect();
    let alarms = source.alarms();
    if let Some(alarm) = alarms.into_iter().find(|alarm| !excluded.iter().any(|name| name == alarm)) {
        return Some(format!("ALARM {alarm}"));
    }
    let serializable = query.values("serializable").next().is_some_and(|value| value == "true");
    if !serializable && !source.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    if !serializable && source.log_lacks_room() {
        return Some(NO_ROOM.to_owned());
    }
    let read = if serializable { source.serializable_read() } else { source.linearizable_read() };
    read.await.err().map(|text| format!("RANGE ERROR:{text}"))
}

/// `/livez` and `/readyz`, all their checks or one. `None` when there is no such check.
pub(super) async fn checks(
    admin: &Admin,
    endpoint: &'static str,
    one: Option<&str>,
    query: &Query<'_>,
) -> Option<Answer> {
    let all = if endpoint == "livez" { LIVEZ } else { READYZ };
    let excluded: Vec<_> = query.values("exclude").collect();
    let chosen: Vec<_> = match one {
        Some(name) => vec![*all.iter().find(|check| **check == name)?],
        None => all.iter().copied().filter(|check| !excluded.iter().any(|name| name == check)).collect(),
    };
    let mut lines = String::new();
    let mut failed = false;
    for check in chosen {
        let result = run(&*admin.source, check).await;
        let is_own = OWN.contains(&check);
        if !is_own {
            // etcd's family of checks has no series for Kevel's own; gauges tell.
            admin.source.count_check(endpoint, check, result.is_ok());
        }
        match result {
            Ok(()) if is_own && one.is_none() => {}
            Ok(()) => lines.push_str(&format!("[+]{check} ok\n")),
            Err(error) => {
                failed = true;
                lines.push_str(&format!("[-]{check} failed: {error}\n"));
            }
        }
    }
    Some(if failed {
        Answer::error(503, &lines)
    } else if query.has("verbose") {
        Answer::plain(200, lines + "ok\n")
    } else {
        Answer::plain(200, "ok\n".to_owned())
    })
}

async fn run(source: &dyn AdminSource, check: &str) -> Result<(), String> {
    match check {
        "data_corruption" if source.alarms().contains(&"CORRUPT") => {
            Err("alarm activated: CORRUPT".to_owned())
        }
        "non_learner" if source.is_learner() => Err("not supported for learner".to_owned()),
        LOG_ROOM if source.log_lacks_room() => Err(NO_ROOM.to_owned()),
        STORE_ROOM if source.store_lacks_room() => Err(NO_STORE_ROOM.to_owned()),
        "serializable_read" => source.serializable_read().await,
        "linearizable_read" => source.linearizable_read().await,
        _ => Ok(()),
    }
}
