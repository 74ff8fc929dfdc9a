//! The HTTP/1.1 endpoints beside gRPC: health, version, metrics.
//!
//! ```text
//!   route    path and method -> answer, with etcd's exact bodies; CORS and host check before routing
//!   health   /health, /livez, /readyz over what the member says of itself ([`AdminSource`])
//! ```
//!
//! What an endpoint says comes from [`AdminSource`], which the session core implements; this folder knows the
//! words only. Absent: the JSON gateway. Its paths answer "not implemented" in the gateway's own shape.
#![forbid(unsafe_code)]

mod health;
mod route;
#[cfg(test)]
mod tests;

use futures::future::LocalBoxFuture;

use crate::server::http1::Service;
use crate::server::http1::answer::Answer;
use crate::server::http1::head::Head;

/// What the endpoints need to know of the member.
pub trait AdminSource {
    /// The alarms that are raised, by name: `NOSPACE`, `CORRUPT`.
    fn alarms(&self) -> Vec<&'static str>;
    /// Whether the member knows a leader.
    fn has_leader(&self) -> bool;
    /// Whether the member is a learner.
    fn is_learner(&self) -> bool;
    /// Whether writes wait for room on the disk of the log.
    fn log_lacks_room(&self) -> bool;
    /// Whether the disk of the store file has no room for a checkpoint.
    fn store_lacks_room(&self) -> bool;
    /// A read of one key from this member's own state; an error's text without its code.
    fn serializable_read(&self) -> LocalBoxFuture<'static, Result<(), String>>;
    /// A read of one key that the leader confirms.
    fn linearizable_read(&self) -> LocalBoxFuture<'static, Result<(), String>>;
    /// The versions that `/version` shows.
    fn versions(&self) -> Versions;
    /// All metrics as Prometheus text.
    fn metrics(&self) -> LocalBoxFuture<'static, String>;
    /// What `/debug/vars` shows as `raft.status`.
    fn raft_status(&self) -> serde_json::Value;
    /// A check of `/livez` (`livez`) or `/readyz` (`readyz`) has run.
    fn count_check(&self, endpoint: &'static str, check: &'static str, passed: bool);
    /// `/health` was asked.
    fn count_health(&self, healthy: bool);
}

/// What `/version` shows.
#[derive(Clone, Debug)]
pub struct Versions {
    /// The etcd version we are compatible with.
    pub server: String,
    /// The cluster's version once decided.
    pub cluster: Option<String>,
    /// The storage's version.
    pub storage: Option<String>,
}

/// What the operator decides about the HTTP endpoints.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--cors`: allowed origins; `*` allows all.
    pub cors: Vec<String>,
    /// `--host-whitelist`: names by which we may be called; `*` allows all.
    pub host_whitelist: Vec<String>,
    /// Only /metrics, /health, /livez and /readyz are there: `--listen-metrics-urls`.
    pub metrics_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cors: vec!["*".into()], host_whitelist: vec!["*".into()], metrics_only: false }
    }
}

/// The endpoints of one listener.
pub struct Admin {
    settings: Settings,
    source: Box<dyn AdminSource>,
}

impl Admin {
    /// Endpoints that ask `source`.
    pub fn new(settings: Settings, source: Box<dyn AdminSource>) -> Self {
        Self { settings, source }
    }
}

impl Service for Admin {
    async fn answer(&self, head: &Head) -> Answer {
        route::answer(self, head).await
    }
}
