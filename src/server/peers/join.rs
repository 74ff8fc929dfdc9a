//! What a new member asks the members of a cluster before it starts: who they are, and which versions they have.
#![forbid(unsafe_code)]

use std::io;
use std::sync::mpsc;

use futures::future::join_all;
use serde::Deserialize;

use super::client::{Ask, Connection};
use super::switchboard::Own;
use crate::cluster::member::MemberContext;
use crate::config::Url;
use crate::peer::greeting::parse_id;
use crate::server::io::{clock, executor, task};
use crate::server::log::Line;
use crate::server::tls::Ports;
use crate::stdx::time::Duration;

/// How long one member may take to answer, etcd's own figure.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long those may take of whom nobody knows whether they are there, etcd's own figure.
const GLANCE: Duration = Duration::from_secs(1);
/// Requests to the kernel that are under way at a time, at most.
const RING_DEPTH: usize = 64;

/// A cluster, as one of its members tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The members, by id.
    pub members: Vec<MemberContext>,
}

/// The versions that a member tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Versions {
    /// Of the member itself.
    #[serde(rename = "etcdserver", default)]
    pub server: String,
    /// That the cluster has agreed on.
    #[serde(rename = "etcdcluster", default)]
    pub cluster: String,
}

/// A cluster, and the versions of its members; none of those that do not answer.
pub type Found = (Told, Vec<(u64, Option<Versions>)>);

/// Asks the members at these URLs, one after the other, who belongs to their cluster, and then each member for its
/// versions; none for a member that does not answer. `skip` names the URLs of the one who asks, and `ports` has what
/// secures the connections.
///
/// # Errors
/// When nobody answers who belongs to a cluster, in etcd's words.
pub fn look(urls: Vec<Url>, skip: Vec<String>, ports: Ports) -> Result<Found, String> {
    let (tell, told) = mpsc::channel();
    let main = move || async move {
        // Whoever started this waits for it.
        let _ = tell.send(ask_all(&nobody(ports), &urls, &skip).await);
    };
    executor::spawn("join", None, RING_DEPTH, main)?.join()?;
    told.recv().unwrap_or_else(|_| Err("the members of the cluster were not asked".to_owned()))
}

/// Asks the members at these URLs, all at once and for no longer than a second, who belongs to their cluster; none if
/// nobody answers.
///
/// # Errors
/// When no executor can be started.
pub fn glance(urls: Vec<Url>, ports: Ports) -> Result<Option<Told>, String> {
    let (tell, told) = mpsc::channel();
    let main = move || async move {
        let own = nobody(ports);
        let asks = urls.iter().map(|url| glance_at(&own, url));
        // Whoever started this waits for it.
        let _ = tell.send(join_all(asks).await.into_iter().flatten().next());
    };
    executor::spawn("join", None, RING_DEPTH, main)?.join()?;
    Ok(told.recv().ok().flatten())
}

async fn glance_at(own: &Own, url: &Url) -> Option<Told> {
    let (id, body) = task::until(clock::now() + GLANCE, ask(own, url, "/members")).await?.ok()?;
    understood(&id, &body).ok()
}

async fn ask_all(own: &Own, urls: &[Url], skip: &[String]) -> Result<Found, String> {
    let told = ask_members(own, urls).await?;
    let mut versions = Vec::new();
    for member in &told.members {
        if member.peer_urls.iter().any(|url| skip.contains(url)) {
            continue;
        }
        versions.push((member.id, version_of(own, member).await));
    }
    Ok((told, versions))
}

async fn ask_members(own: &Own, urls: &[Url]) -> Result<Told, String> {
    for url in urls {
        match ask(own, url, "/members").await.and_then(|(id, body)| understood(&id, &body)) {
            Ok(told) if told.members.is_empty() => {
                return Err("failed to get raft cluster member(s) from the given URLs".to_owned());
            }
            Ok(told) => return Ok(told),
            Err(error) => Line::warn("failed to get cluster response")
                .text("address", format!("{url}/members"))
                .text("error", error.to_string())
                .write(),
        }
    }
    Err("could not retrieve cluster information from the given URLs".to_owned())
}

fn understood(cluster_id: &str, body: &[u8]) -> io::Result<Told> {
    let mut members: Vec<MemberContext> = serde_json::from_slice(body).map_err(io::Error::other)?;
    members.sort_by_key(|member| member.id);
    let cluster_id = parse_id(cluster_id).ok_or_else(|| io::Error::other("failed to parse cluster ID"))?;
    Ok(Told { cluster_id, members })
}

/// The versions of a member, from the first of its URLs that answers.
async fn version_of(own: &Own, member: &MemberContext) -> Option<Versions> {
    for url in member.peer_urls.iter().filter_map(|url| Url::parse(url).ok()) {
        let read = |body: &[u8]| serde_json::from_slice::<Versions>(body).map_err(io::Error::other);
        match ask(own, &url, "/version").await.and_then(|(_, body)| read(&body)) {
            Ok(versions) => return Some(versions),
            Err(error) => Line::warn("failed to reach the peer URL")
                .text("address", format!("{url}/version"))
                .id("remote-member-id", member.id)
                .text("error", error.to_string())
                .write(),
        }
    }
    None
}

/// Cluster id and body of what is at a path.
async fn ask(own: &Own, url: &Url, path: &str) -> io::Result<(String, Vec<u8>)> {
    let timed_out = || Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"));
    let exchange = async {
        let mut connection = Connection::dial(own, url).await?;
        let ask = Ask { method: "GET", path, to: None, content: None };
        let reply = connection.ask(own, &ask).await?;
        let body = connection.read_whole(reply.body).await?;
        Ok((reply.cluster_id, body))
    };
    task::until(clock::now() + ANSWER_WITHIN, exchange).await.unwrap_or_else(timed_out)
}

/// Who asks: a member that does not know its id yet.
fn nobody(ports: Ports) -> Own {
    Own {
        member_id: 0,
        cluster_id: 0,
        peer_urls: String::new(),
        dial_timeout: ANSWER_WITHIN,
        request_timeout: ANSWER_WITHIN,
        message_bytes_max: 0,
        core: 0,
        ports,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A member that answers so many requests with this body.
    fn member(requests: usize, head: &'static str, body: String) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let own = url.to_string();
        std::thread::spawn(move || {
            for _ in 0..requests {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let body = body.replace("OWN", &own);
                let length = body.len();
                write!(stream, "HTTP/1.1 200 OK\r\n{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
            }
        });
        url
    }

    #[test]
    fn the_first_member_that_answers_tells_of_all() {
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
        };
        let nonsense = member(1, "", "nonsense".to_owned());
        let body = r#"[{"id":9,"peerURLs":["http://me:1"]},{"id":7,"peerURLs":["OWN"],"etcdserver":"x"}]"#;
        let good = member(2, "X-Etcd-Cluster-ID: ab\r\n", body.to_owned());
        let (told, versions) =
            look(vec![nobody.clone(), nonsense, good], vec!["http://me:1".into()], Ports::none()).unwrap();
        assert_eq!((told.cluster_id, told.members[0].id, told.members[1].id), (0xab, 7, 9));
        // The same body is no answer to a question about versions.
        assert_eq!(versions, [(7, None)]);
        assert_eq!(glance(vec![nobody.clone()], Ports::none()), Ok(None));
        let lived = member(1, "X-Etcd-Cluster-ID: ab\r\n", body.to_owned());
        let told = glance(vec![nobody.clone(), lived], Ports::none()).unwrap().unwrap();
        assert_eq!((told.cluster_id, told.members.len()), (0xab, 2));
        let refused = look(vec![nobody], vec![], Ports::none()).unwrap_err();
        assert_eq!(refused, "could not retrieve cluster information from the given URLs");
        let empty = member(1, "X-Etcd-Cluster-ID: ab\r\n", "[]".to_owned());
        let refused = look(vec![empty], vec![], Ports::none()).unwrap_err();
        assert_eq!(refused, "failed to get raft cluster member(s) from the given URLs");
    }
}
