//! The one door that every call passes before its handler runs.
//!
//! A call is counted under the version that its client says it speaks, and its handler learns who asks. Whoever is to
//! know more of a caller, or to refuse one, does it here: no handler looks at a call's metadata.
#![forbid(unsafe_code)]

use super::answer::Caller;
use crate::error::Error;
use crate::server::grpc::{Call, Method, Status};
use crate::server::session::Session;

/// Lets a call in, or says why it ends.
///
/// # Errors
/// What a learner does not answer, a version that is no text, or no leader where the client wants one.
pub fn admit(session: &Session, call: &Call, is_stream: bool) -> Result<Caller, Status> {
    if session.gate().is_learner() && !is_answered_by_learner(call.method) {
        return Err(Error::NotSupportedForLearner.into());
    }
    let version = call.metadata.client_api_version()?;
    session.metrics.versions.count(Some(version), is_stream);
    if call.metadata.requires_leader && session.gate().leader() == 0 {
        return Err(Error::NoLeader.into());
    }
    // Its certificate's name (`call.client.common_name`) is here for whoever is to look at it.
    Ok(Caller { peer: call.client.address })
}

/// Whether a learner answers some calls of a method; of ranges, those that are serializable.
fn is_answered_by_learner(method: Method) -> bool {
    matches!(method, Method::Status | Method::Range | Method::Snapshot)
}
