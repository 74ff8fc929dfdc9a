//! A member without data that is to found a cluster: whether it has lived in that cluster before.
//!
//! A member that has lost its data does not know what it has promised to the others, by its votes and by entries of its
//! log. If it began anew under the same id, the others would rely on promises that nobody keeps.
#![forbid(unsafe_code)]

use crate::cluster::member::MemberContext;
use crate::config::Url;
use crate::replica::bootstrap::Foundation;
use crate::server::peers::join::glance;
use crate::server::tls::Ports;

/// Asks the other founders, if there are any.
///
/// # Errors
/// When one of them knows this member as one that has served: etcd's words, and what to do.
pub fn check(foundation: &Foundation, own_id: u64, ports: &Ports) -> Result<(), String> {
    let others = foundation.founders.iter().filter(|founder| founder.id != own_id);
    let urls = others.flat_map(|founder| &founder.peer_urls).filter_map(|url| Url::parse(url).ok());
    let urls: Vec<Url> = urls.collect();
    if urls.is_empty() {
        return Ok(());
    }
    let told = glance(urls, ports.clone())?;
    judge(own_id, &told.map(|told| told.members).unwrap_or_default())
}

/// Whether a member may begin, by what another one tells of all members.
fn judge(own_id: u64, members: &[MemberContext]) -> Result<(), String> {
    // A member publishes its client URLs when it serves.
    if members.iter().any(|member| member.id == own_id && !member.client_urls.is_empty()) {
        return Err(format!(
            "member {own_id:x} has already been bootstrapped. If its data are lost, remove it and add it again \
             (etcdctl member remove, etcdctl member add), then start it with --initial-cluster-state=existing"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_has_served_does_not_begin_anew() {
        let member = |id, urls: &[&str]| MemberContext {
            id,
            client_urls: urls.iter().map(|url| url.to_string()).collect(),
            ..MemberContext::default()
        };
        assert_eq!(judge(7, &[]), Ok(()));
        assert_eq!(judge(7, &[member(7, &[]), member(8, &["http://b"])]), Ok(()));
        let refused = judge(8, &[member(7, &[]), member(8, &["http://b"])]).unwrap_err();
        assert!(refused.starts_with("member 8 has already been bootstrapped"), "{refused}");
    }
}
