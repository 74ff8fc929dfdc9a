//! The one door that every call passes before its handler runs.
//!
//! A call is counted under the version that its client says it speaks, and its handler learns who asks. Whoever is to
//! know more of a caller, or to refuse one, does it here: no handler looks at a call's metadata.
#![forbid(unsafe_code)]

use super::answer::Caller;
use crate::server::grpc::{Call, Status};
use crate::server::session::Session;

/// Lets a call in, or says why it ends.
///
/// # Errors
/// A version that is no text.
pub fn admit(session: &Session, call: &Call, is_stream: bool) -> Result<Caller, Status> {
    let version = call.metadata.client_api_version()?;
    session.metrics.versions.count(Some(version), is_stream);
    Ok(Caller { peer: call.peer })
}
