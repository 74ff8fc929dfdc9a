//! What a request of a member says of itself in its headers, and what it is refused for.
#![forbid(unsafe_code)]

/// The id of the member that asks.
pub const SERVER_FROM: &str = "X-Server-From";
/// The version of etcd that the member follows.
pub const SERVER_VERSION: &str = "X-Server-Version";
/// The oldest version of a cluster that the member can be in.
pub const MIN_CLUSTER_VERSION: &str = "X-Min-Cluster-Version";
/// The id of the cluster.
pub const CLUSTER_ID: &str = "X-Etcd-Cluster-Id";
/// The id of the member that is asked.
pub const RAFT_TO: &str = "X-Raft-To";
/// Where other members reach the one that asks.
pub const PEER_URLS: &str = "X-Peerurls";
/// The checksum that the member that asks looks for behind a snapshot: [`SHA256`]. etcd knows nothing of it.
pub const TAKES_DIGEST: &str = "X-Kevel-Takes-Digest";
/// The checksum that stands behind the snapshot in this request.
pub const DIGEST: &str = "X-Kevel-Digest";
/// SHA-256 over the bytes of the file.
pub const SHA256: &str = "sha256";

/// The oldest version of a cluster that this member can be in, as etcd's.
pub const OLDEST_CLUSTER: &str = "3.0.0";

/// What is said to a member of a version that this one does not understand, with status 412.
pub const INCOMPATIBLE: &str = "incompatible version";
/// What is said to a member of another cluster, with status 412.
pub const OTHER_CLUSTER: &str = "cluster ID mismatch";

/// What is told of a member that names no version.
const NO_VERSION: &str = "2.0.0";

/// Why a request is refused with status 412; none if it is not. `field` finds a header, `own_version` is this
/// member's.
pub fn refusal<'a>(
    field: impl Fn(&str) -> Option<&'a str>,
    own_version: &str,
    cluster_id: u64,
) -> Option<&'static str> {
    let version = |name| field(name).filter(|text| !text.is_empty()).unwrap_or(NO_VERSION);
    let (server, oldest) = (minor(version(SERVER_VERSION)), minor(version(MIN_CLUSTER_VERSION)));
    let fits = server >= minor(OLDEST_CLUSTER) && oldest.is_some() && oldest <= minor(own_version);
    if !fits {
        return Some(INCOMPATIBLE);
    }
    (field(CLUSTER_ID) != Some(format!("{cluster_id:x}").as_str())).then_some(OTHER_CLUSTER)
}

/// The first two numbers of a version; none if it is no version.
fn minor(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// A member's id as headers and paths have it.
pub fn parse_id(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(server: &str, oldest: &str, cluster: &str) -> Option<&'static str> {
        let field = |name: &str| match name {
            SERVER_VERSION => Some(server),
            MIN_CLUSTER_VERSION => Some(oldest),
            CLUSTER_ID => Some(cluster),
            _ => None,
        };
        refusal(field, "3.7.3", 0xabc)
    }

    #[test]
    fn members_of_other_clusters_and_versions_are_refused() {
        for server in ["3.7.3", "3.0.0", "3.4.27", "4.0.0", "3.8.0-alpha.0"] {
            assert_eq!(refused(server, "3.0.0", "abc"), None, "{server}");
        }
        assert_eq!(refused("3.7.0", "3.7.0", "abc"), None);
        for (server, oldest) in
            [("2.3.8", "2.1.0"), ("", ""), ("3.8.0", "3.8.0"), ("x", "3.0.0"), ("3.7.0", "3")]
        {
            assert_eq!(refused(server, oldest, "abc"), Some(INCOMPATIBLE), "{server} {oldest}");
        }
        for cluster in ["abd", "ABC", "0abc", ""] {
            assert_eq!(refused("3.7.3", "3.0.0", cluster), Some(OTHER_CLUSTER));
        }
    }

    #[test]
    fn ids_are_hexadecimal_without_a_sign() {
        assert_eq!((parse_id("8e9e05c52164694d"), parse_id("0")), (Some(0x8e9e_05c5_2164_694d), Some(0)));
        for wrong in ["", "+1", "-1", "0x1", "8e9e05c52164694d0", "g"] {
            assert_eq!(parse_id(wrong), None, "{wrong}");
        }
    }
}
