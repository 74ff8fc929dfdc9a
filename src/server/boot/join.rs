//! A member without data that joins a cluster: whether the cluster that `--initial-cluster` describes is the one that
//! its members tell of, and which of its members this one is.
#![forbid(unsafe_code)]

use super::places::Places;
use crate::cluster::member::MemberContext;
use crate::cluster::version::minor;
use crate::config::{Config, ETCD_VERSION, InitialCluster, Url};
use crate::peer::greeting::OLDEST_CLUSTER;
use crate::server::log::Line;
use crate::server::peers::join::{Told, Versions, look};
use crate::server::tls::Ports;

/// A cluster that was found, and this member in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The cluster's id.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
    /// All members.
    pub members: Vec<MemberContext>,
}

/// Asks the members that `config` names, and compares.
///
/// # Errors
/// When the cluster is not there or another one, or when this member may not join it, in etcd's words.
pub fn find(config: &Config, ports: &Ports) -> Result<Place, String> {
    let cluster = config.founders()?;
    let own = cluster.check_joiner(&config.name)?;
    let skip = own.iter().map(Url::to_string).collect();
    let (told, versions) = look(others(&cluster, &config.name), skip, ports.clone())
        .map_err(|why| format!("cannot fetch cluster info from peer urls: {why}"))?;
    let places = Places::begin();
    let same = |one: &Url, other: &Url| places.are_same(one, other);
    let member_id = place_of(&config.name, &cluster, &told.members, same)
        .map_err(|why| format!("error validating peerURLs {}: {why}", shown(&told)))?;
    if !is_compatible(&versions) {
        return Err("incompatible with current running cluster".to_owned());
    }
    let learners = told.members.iter().filter(|member| member.is_learner).count();
    if learners > config.raft.learners_max {
        return Err("membership: too many learner members in cluster".to_owned());
    }
    Ok(Place { cluster_id: told.cluster_id, member_id, members: told.members })
}

/// The peer URLs of all members but the one of that name, sorted.
fn others(cluster: &InitialCluster, name: &str) -> Vec<Url> {
    let others = cluster.members.iter().filter(|(other, _)| *other != name);
    let mut urls: Vec<Url> = others.flat_map(|(_, urls)| urls.clone()).collect();
    urls.sort_by_cached_key(Url::to_string);
    urls
}

/// The id of the member of that name: each member that exists has to have the URLs of one that is configured.
fn place_of(
    name: &str,
    cluster: &InitialCluster,
    existing: &[MemberContext],
    same: impl Fn(&Url, &Url) -> bool,
) -> Result<u64, String> {
    if existing.len() != cluster.members.len() {
        return Err("member count is unequal".to_owned());
    }
    let mut own = None;
    for member in existing {
        let mut last = String::new();
        let mut fit = |same: &dyn Fn(&Url, &Url) -> bool| {
            cluster.members.iter().find(|(_, urls)| match are_equal(&member.peer_urls, urls, same) {
                Ok(()) => true,
                Err(why) => {
                    last = why;
                    false
                }
            })
        };
        // Names are looked up for a member whose URLs are written otherwise alone: a look-up may have to be waited for.
        let found = fit(&|one, other| one == other).or_else(|| fit(&same));
        let Some((known_as, _)) = found else {
            return Err(format!(
                "PeerURLs: no match found for existing member ({:x}, [{}]), last resolver error ({last})",
                member.id,
                member.peer_urls.join(" ")
            ));
        };
        if known_as == name {
            own = Some(member.id);
        }
    }
    own.ok_or_else(|| format!("no existing member has the peer URLs of {name:?}"))
}

/// Whether two lists of URLs lead to the same places, and what differs if not.
fn are_equal(theirs: &[String], ours: &[Url], same: &dyn Fn(&Url, &Url) -> bool) -> Result<(), String> {
    let quoted = |urls: &[String]| {
        let quoted: Vec<String> = urls.iter().map(|url| format!("{url:?}")).collect();
        format!("[{}]", quoted.join(" "))
    };
    let shown: Vec<String> = ours.iter().map(Url::to_string).collect();
    if theirs.len() != ours.len() {
        return Err(format!("len({}) != len({})", quoted(theirs), quoted(&shown)));
    }
    let mut sorted = theirs.to_vec();
    sorted.sort();
    let read: Vec<Option<Url>> = sorted.iter().map(|url| Url::parse(url).ok()).collect();
    let mut pairs = sorted.iter().zip(&read).zip(ours);
    // Addresses have another order than the names that stand for them.
    let leads = |url: &Url| ours.iter().any(|our| same(url, our));
    let is_led_to = |our: &Url| read.iter().flatten().any(|url| same(url, our));
    let differs = |read: &Option<Url>, our: &Url| !read.as_ref().is_some_and(leads) || !is_led_to(our);
    match pairs.find(|((_, read), our)| differs(read, our)) {
        Some(((their, _), our)) => Err(format!("resolved urls: {their:?} != {:?}", our.to_string())),
        None => Ok(()),
    }
}

/// Whether a member of this version may join: some other member has told the version of its cluster, and all that have
/// told one are in a cluster that this version can be in.
fn is_compatible(versions: &[(u64, Option<Versions>)]) -> bool {
    let (oldest, newest) = (minor(OLDEST_CLUSTER), minor(ETCD_VERSION));
    let mut is_known = false;
    for (id, versions) in versions {
        let Some(versions) = versions else { continue };
        let version = minor(&versions.cluster);
        let warn = |what: &str| {
            Line::warn(what)
                .id("remote-member-id", *id)
                .text("remote-member-cluster-version", &versions.cluster)
                .write();
        };
        match version {
            None => warn("failed to parse cluster version of remote member"),
            version if version < oldest => {
                warn("cluster version of remote member is not compatible; too low");
                return false;
            }
            version if version > newest => {
                warn("cluster version of remote member is not compatible; too high");
                return false;
            }
            _ => is_known = true,
        }
    }
    is_known
}

/// A cluster as Go prints it.
fn shown(told: &Told) -> String {
    let member = |member: &MemberContext| {
        format!(
            "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
            member.id,
            member.peer_urls.join(" "),
            member.is_learner,
            member.name,
            member.client_urls.join(" ")
        )
    };
    let members: Vec<String> = told.members.iter().map(member).collect();
    format!("{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}", told.cluster_id, members.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, urls: &[&str]) -> MemberContext {
        let peer_urls = urls.iter().map(|&url| url.to_owned()).collect();
        MemberContext { id, peer_urls, ..MemberContext::default() }
    }

    fn place(configured: &str, existing: &[MemberContext]) -> Result<u64, String> {
        place_of("b", &InitialCluster::parse(configured).unwrap(), existing, |one, other| one == other)
    }

    #[test]
    fn a_member_finds_itself_by_its_urls() {
        let existing = [member(7, &["http://a:1"]), member(9, &["http://b:2", "http://b:1"])];
        let configured = "a=http://a:1,b=http://b:1,b=http://b:2";
        assert_eq!(place(configured, &existing), Ok(9));
        assert_eq!(
            others(&InitialCluster::parse(configured).unwrap(), "b"),
            [Url::parse("http://a:1").unwrap()]
        );
        assert_eq!(place("b=http://b:1", &existing).unwrap_err(), "member count is unequal");
        assert_eq!(
            place("a=http://a:2,b=http://b:1,b=http://b:2", &existing).unwrap_err(),
            "PeerURLs: no match found for existing member (7, [http://a:1]), last resolver error \
             (len([\"http://a:1\"]) != len([\"http://b:1\" \"http://b:2\"]))"
        );
        assert_eq!(
            place("a=http://a:1,b=http://b:1,b=http://b:3", &existing).unwrap_err(),
            "PeerURLs: no match found for existing member (9, [http://b:2 http://b:1]), last resolver error \
             (resolved urls: \"http://b:2\" != \"http://b:3\")"
        );
    }

    #[test]
    fn a_member_joins_a_cluster_of_a_version_that_it_can_be_in() {
        let told = |clusters: &[&str]| {
            let versions =
                |cluster: &&str| Versions { server: "3.7.3".into(), cluster: (*cluster).to_owned() };
            let told: Vec<_> = clusters.iter().map(|cluster| (1, Some(versions(cluster)))).collect();
            is_compatible(&told)
        };
        assert!(told(&["3.7.0"]) && told(&["3.0.0", "3.6.0"]) && told(&["3.5.0", "not_decided"]));
        assert!(!told(&[]) && !told(&["not_decided"]) && !told(&["3.7.0", "3.8.0"]) && !told(&["2.3.0"]));
        assert!(!is_compatible(&[(1, None)]), "nobody answers");
    }

    #[test]
    fn a_cluster_is_shown_as_go_shows_it() {
        let told = Told { cluster_id: 0xab, members: vec![member(7, &["http://a:1"])] };
        assert_eq!(
            shown(&told),
            "{ClusterID:ab Members:[&{ID:7 RaftAttributes:{PeerURLs:[http://a:1] IsLearner:false} \
             Attributes:{Name: ClientURLs:[]}}] RemovedMemberIDs:[]}"
        );
    }
}
