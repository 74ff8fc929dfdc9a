//! `kevel rebuild`: a member whose data are damaged is removed from its cluster and added again, and gets a data
//! directory from which it starts with its usual flags. The others send it all data.
//!
//! ```text
//!   the cluster          remove OLD ID, add NEW ID with the same peer URLs
//!   DATA_DIR/member  ──▶ DATA_DIR/member.damaged     kept until somebody removes it
//!   DATA_DIR/member  ◀── an empty store and an empty log of NEW ID
//! ```
//!
//! The member gets a new id because what it has promised to others, by its votes and by entries of its log, cannot be
//! known any more. Its directory is touched when the cluster has the new member, and not before.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};

use super::flags::{CommandLine, Flag};
use super::grpc_client::{Client, Failure};
use super::{Failed, STATUS_BAD_ARGUMENTS, finish, restore};
use crate::config::Url;
use crate::config::tls::{Tls, TlsFiles, TlsVersion};
use crate::page::{self, Owner};
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberRemoveRequest,
    MemberRemoveResponse,
};
use crate::server::io::page_file::MappedFile;
use crate::server::io::wal_dir::WalDir;
use crate::server::io::{clock, executor, task};
use crate::server::tls::Ports;
use crate::server::tls::port::{Port, Side};
use crate::server::tls::workers::Workers;
use crate::stdx::time::Duration;
use crate::wal::recover;

const HELP: &str = "\
Usage:
  kevel rebuild --data-dir DIR --endpoints URLS [flags]

Rebuilds a stopped member of a cluster whose data are damaged: the member is removed from the cluster and added again
with the same peer URLs, and its data directory is made anew. Start the member then as always: the others send it all
data. What was in the directory is kept in DIR/member.damaged.

Flags:
      --data-dir string    the directory of the damaged member
      --wal-dir string     the folder of its log, if it lies elsewhere
      --endpoints string   client URLs of other members, with commas between them
      --cacert string      authorities that sign the certificates of the other members
      --cert string        the certificate to be shown to the other members
      --key string         its key
";

const FLAGS: [Flag; 7] = [
    Flag::text("data-dir"),
    Flag::text("wal-dir"),
    Flag::text("endpoints"),
    Flag::text("cacert"),
    Flag::text("cert"),
    Flag::text("key"),
    Flag::HELP,
];

/// How long the cluster may refuse a change for the moment.
const CHANGE_WITHIN: Duration = Duration::from_secs(60);
/// Time between two attempts.
const BACK_OFF: Duration = Duration::from_millis(500);
/// Requests to the kernel that are under way at a time, at most.
const RING_DEPTH: usize = 64;
/// The codes with which a cluster refuses what it may do later: DeadlineExceeded and Unavailable.
const PASSING: [u32; 2] = [4, 14];
const NOT_FOUND: u32 = 5;

const LIST: &str = "/etcdserverpb.Cluster/MemberList";
const REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";
const ADD: &str = "/etcdserverpb.Cluster/MemberAdd";

/// Does what the arguments behind `kevel rebuild` say.
pub fn run(args: &[String]) -> ExitCode {
    finish(command(args))
}

fn command(args: &[String]) -> Result<String, Failed> {
    let line = CommandLine::read(args, &FLAGS)?;
    if line.get("help").is_some() {
        return Ok(HELP.to_owned());
    }
    let needed = |name: &str| {
        let text = line.get(name).filter(|text| !text.is_empty());
        text.map(str::to_owned)
            .ok_or_else(|| Failed::new(STATUS_BAD_ARGUMENTS, format!("rebuild requires --{name}")))
    };
    let data_dir = PathBuf::from(needed("data-dir")?);
    let endpoints = Url::parse_list(&with_schemes(&needed("endpoints")?)).map_err(Failed::error)?;
    let wal_dir = line.path("wal-dir");
    let files = |name: &str| line.get(name).unwrap_or_default().to_owned();
    let files = TlsFiles {
        cert: files("cert"),
        key: files("key"),
        trusted_ca: files("cacert"),
        ..TlsFiles::default()
    };
    let place = Place { data_dir, wal_dir };
    let owner = place.owner()?;
    let ports = ports(files, endpoints.iter().any(Url::is_tls))?;
    place.check_room()?;
    let added = replace(owner, endpoints, ports).map_err(Failed::error)?;
    place.set_aside().and_then(|()| place.begin(added)).map_err(|why| unfinished(added, why))?;
    Ok(format!(
        "member {:x} was removed from cluster {:x} and added again as {:x}; its data directory is new, and what was \
         there before is kept as {}. Start the member with its usual flags\n",
        owner.member_id,
        owner.cluster_id,
        added.member_id,
        damaged(&place.data_dir.join("member")).display()
    ))
}

/// Endpoints as etcdctl takes them: without a scheme they are plain.
fn with_schemes(endpoints: &str) -> String {
    let whole = |endpoint: &str| match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    };
    endpoints.split(',').map(|endpoint| whole(endpoint.trim())).collect::<Vec<_>>().join(",")
}

/// What is said where the cluster has the new member, and the disk does not do its part.
fn unfinished(added: Owner, why: Failed) -> Failed {
    Failed::error(format!(
        "the member was added again as {:x}, but {}. Start it with an empty data directory and \
         --initial-cluster-state=existing",
        added.member_id, why.text
    ))
}

/// What secures connections to the other members.
fn ports(files: TlsFiles, is_secure: bool) -> Result<Ports, Failed> {
    if !is_secure {
        return Ok(Ports::none());
    }
    let tls = Tls {
        client: TlsFiles::default(),
        peer: files,
        validity_years: 1,
        cipher_suites: Vec::new(),
        min: TlsVersion::V12,
        max: TlsVersion::V13,
    };
    let port = Port::open(&tls, Side::Peer).map_err(Failed::error)?;
    let workers = Workers::start_for_peers().map_err(|error| Failed::error(error.to_string()))?;
    Ok(Ports { client: None, peer: Some(Arc::new(port)), workers: None, peer_workers: Some(workers) })
}

/// Where the member lives.
struct Place {
    data_dir: PathBuf,
    /// Where its log is, if that lies elsewhere.
    wal_dir: Option<PathBuf>,
}

/// Where what is damaged is kept.
fn damaged(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".damaged");
    PathBuf::from(name)
}

impl Place {
    /// The folders that the member has.
    fn folders(&self) -> Vec<PathBuf> {
        let folders = [Some(self.data_dir.join("member")), self.wal_dir.clone()];
        folders.into_iter().flatten().collect()
    }

    fn wal(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }

    /// Which member lives here, as its store says, or else its log. Neither may be in use.
    fn owner(&self) -> Result<Owner, Failed> {
        let store = self.data_dir.join("member").join("kevel").join("store");
        let of_store = match MappedFile::open_existing(&store) {
            Ok(file) => page::owner(&file).ok().flatten(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("open", &store, &error)),
        };
        let of_log = self.owner_of_log()?;
        of_store.or(of_log).ok_or_else(|| {
            let dir = self.data_dir.display();
            Failed::error(format!(
                "neither store nor log in {dir} say which member it is: remove that member and add it again (etcdctl \
                 member remove, etcdctl member add), then start it with an empty data directory and \
                 --initial-cluster-state=existing"
            ))
        })
    }

    fn owner_of_log(&self) -> Result<Option<Owner>, Failed> {
        let folder = self.wal();
        if !folder.exists() {
            return Ok(None);
        }
        let unread = |error: io::Error| failed("read", &folder, &error);
        let log = WalDir::open(&folder).map_err(unread)?;
        let names = log.segments().map_err(unread)?;
        let content = log.read_after(&names, 0).map_err(unread)?;
        let metadata = content.iter().find_map(|(_, segment)| recover::metadata(segment));
        Ok(metadata.map(|found| Owner { member_id: found.node_id, cluster_id: found.cluster_id }))
    }

    /// Whether there is room for what is set aside.
    fn check_room(&self) -> Result<(), Failed> {
        match self.folders().iter().map(|folder| damaged(folder)).find(|kept| kept.exists()) {
            None => Ok(()),
            Some(kept) => {
                let kept = kept.display();
                Err(Failed::error(format!("{kept} is there from an earlier time: look at it, and remove it")))
            }
        }
    }

    /// Gives the member's folders another name.
    fn set_aside(&self) -> Result<(), Failed> {
        for folder in self.folders().iter().filter(|folder| folder.exists()) {
            fs::rename(folder, damaged(folder)).map_err(|error| failed("rename", folder, &error))?;
        }
        Ok(())
    }

    /// Makes the directory of a member that has joined its cluster and knows nothing yet.
    fn begin(&self, owner: Owner) -> Result<(), Failed> {
        let member = self.data_dir.join("member");
        restore::make_empty(&member, &self.wal(), owner)
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failed {
    Failed::error(format!("cannot {what} {}: {error}", path.display()))
}

/// Replaces a member of a cluster by a new one at the same place.
fn replace(owner: Owner, endpoints: Vec<Url>, ports: Ports) -> Result<Owner, String> {
    let (tell, told) = mpsc::channel();
    let main = move || async move {
        // Whoever started this waits for it.
        let _ = tell.send(Cluster { owner, endpoints, ports }.replace().await);
    };
    executor::spawn("rebuild", None, RING_DEPTH, main)?.join()?;
    told.recv().unwrap_or_else(|_| Err("the cluster was not asked".to_owned()))
}

/// A cluster with a damaged member.
struct Cluster {
    owner: Owner,
    endpoints: Vec<Url>,
    ports: Ports,
}

/// A change of the members.
enum Change {
    Remove(u64),
    /// A member with these peer URLs, with or without a vote.
    Add(Vec<String>, bool),
}

impl Change {
    /// Whether these are the members behind the change.
    fn is_made(&self, members: &[Member]) -> bool {
        match self {
            Self::Remove(id) => members.iter().all(|member| member.id != *id),
            Self::Add(urls, _) => members.iter().any(|member| member.peer_ur_ls == *urls),
        }
    }

    /// Whether a change that is refused with this code may be made later. The id of a new member is made of its URLs
    /// and of the second, so it may be the one that was removed just now: such a member is "not found".
    fn may_pass(&self, code: u32) -> bool {
        PASSING.contains(&code) || (matches!(self, Self::Add(..)) && code == NOT_FOUND)
    }

    /// Has the change made; the members behind it.
    async fn make(&self, client: &Client) -> Result<Vec<Member>, Failure> {
        match self {
            Self::Remove(id) => {
                let request = MemberRemoveRequest { id: *id };
                Ok(client.call::<MemberRemoveResponse>(REMOVE, &request).await?.members)
            }
            Self::Add(urls, is_learner) => {
                let request = MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: *is_learner };
                Ok(client.call::<MemberAddResponse>(ADD, &request).await?.members)
            }
        }
    }
}

impl Cluster {
    async fn replace(&self) -> Result<Owner, String> {
        let (_, members) = self.members().await.map_err(|failure| failure.text)?;
        let own = find(self.owner.member_id, members)?;
        let gone = self.change(&Change::Remove(own.id)).await;
        gone.map_err(|why| format!("member {:x} is not removed: {why}", own.id))?;
        let added = self.change(&Change::Add(own.peer_ur_ls.clone(), own.is_learner)).await;
        let added = added.map_err(|why| half_done(&own, &why))?;
        let added = added.into_iter().find(|member| member.peer_ur_ls == own.peer_ur_ls);
        let member_id = added.ok_or_else(|| half_done(&own, "it is gone again"))?.id;
        Ok(Owner { member_id, ..self.owner })
    }

    /// Has a change made. One whose answer is lost may have been made, so the members are asked for first each time.
    async fn change(&self, change: &Change) -> Result<Vec<Member>, String> {
        let deadline = clock::now() + CHANGE_WITHIN;
        loop {
            match self.attempt(change).await {
                Ok(members) => return Ok(members),
                Err(Failure { code, text }) => {
                    let is_final = code.is_some_and(|code| !change.may_pass(code));
                    if is_final || clock::now() >= deadline {
                        return Err(text);
                    }
                }
            }
            task::sleep(BACK_OFF).await;
        }
    }

    async fn attempt(&self, change: &Change) -> Result<Vec<Member>, Failure> {
        let (client, members) = self.members().await?;
        if change.is_made(&members) { Ok(members) } else { change.make(&client).await }
    }

    /// The members of the cluster, and a way to one of them.
    async fn members(&self) -> Result<(Client, Vec<Member>), Failure> {
        let mut failure = Failure { code: None, text: "no endpoint is named".to_owned() };
        for endpoint in &self.endpoints {
            match self.members_at(endpoint).await {
                Ok(found) => return Ok(found),
                Err(Failure { code, text }) => {
                    failure = Failure { code, text: format!("{endpoint}: {text}") }
                }
            }
        }
        Err(failure)
    }

    async fn members_at(&self, endpoint: &Url) -> Result<(Client, Vec<Member>), Failure> {
        let client = Client::dial(endpoint, &self.ports).await?;
        let request = MemberListRequest { linearizable: true };
        let MemberListResponse { header, members } = client.call(LIST, &request).await?;
        let (cluster_id, own) = (header.unwrap_or_default().cluster_id, self.owner.cluster_id);
        if cluster_id != own {
            let text = format!("it belongs to cluster {cluster_id:x}, the damaged member to {own:x}");
            return Err(Failure { code: None, text });
        }
        Ok((client, members))
    }
}

/// The damaged member among those of its cluster.
fn find(id: u64, members: Vec<Member>) -> Result<Member, String> {
    if members.len() == 1 && members[0].id == id {
        return Err(format!("member {id:x} is alone in its cluster: nobody can rebuild it"));
    }
    members.into_iter().find(|member| member.id == id).ok_or_else(|| {
        format!(
            "member {id:x} is in its cluster no more: add a new one (etcdctl member add), and start it with an empty \
             data directory and --initial-cluster-state=existing"
        )
    })
}

/// What is said where the member was removed and could not be added again.
fn half_done(own: &Member, why: &str) -> String {
    format!(
        "member {:x} was removed, and a new one at {} could not be added: {why}. Add it (etcdctl member add), and \
         start it with an empty data directory and --initial-cluster-state=existing",
        own.id,
        own.peer_ur_ls.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        Member { id, peer_ur_ls: vec![url.to_owned()], ..Member::default() }
    }

    #[test]
    fn a_change_that_was_made_is_not_made_again() {
        let (remove, add) = (Change::Remove(7), Change::Add(vec!["http://c".into()], false));
        let before = [member(5, "http://a"), member(7, "http://c")];
        let (between, after) = (&before[..1], [member(5, "http://a"), member(9, "http://c")]);
        assert!(!remove.is_made(&before) && remove.is_made(between) && remove.is_made(&after));
        assert!(!add.is_made(between) && add.is_made(&after));
    }

    #[test]
    fn only_a_member_among_others_can_be_rebuilt() {
        let members = || vec![member(5, "http://a"), member(7, "http://c")];
        assert_eq!(find(7, members()).map(|found| found.id), Ok(7));
        assert!(find(8, members()).unwrap_err().contains("no more"));
        assert!(find(7, vec![member(7, "http://c")]).unwrap_err().contains("alone"));
    }

    #[test]
    fn a_directory_is_set_aside_and_begun_anew() {
        let data_dir = std::env::temp_dir().join(format!("kevel-rebuild-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data_dir);
        let place = Place { data_dir: data_dir.clone(), wal_dir: None };
        assert!(place.owner().unwrap_err().text.contains("neither store nor log"));
        let (old, new) = (Owner { member_id: 7, cluster_id: 3 }, Owner { member_id: 9, cluster_id: 3 });
        place.begin(old).unwrap();
        assert_eq!(place.owner().unwrap(), old);
        let store = data_dir.join("member").join("kevel").join("store");
        fs::write(&store, [7; 8192]).unwrap();
        assert_eq!(place.owner().unwrap(), old, "the log says so");
        place.check_room().unwrap();
        place.set_aside().unwrap();
        assert!(!data_dir.join("member").exists());
        place.begin(new).unwrap();
        assert_eq!(place.owner().unwrap(), new);
        let refused = place.check_room().unwrap_err().text;
        assert!(refused.contains("member.damaged is there"), "{refused}");
        fs::remove_dir_all(&data_dir).unwrap();
    }

    #[test]
    fn what_is_missing_is_said() {
        let say = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
            command(&args).map_err(|failed| (failed.status, failed.text))
        };
        assert_eq!(say(&["--help"]), Ok(HELP.to_owned()));
        assert_eq!(say(&[]), Err((STATUS_BAD_ARGUMENTS, "rebuild requires --data-dir".to_owned())));
        let no_endpoints = Err((STATUS_BAD_ARGUMENTS, "rebuild requires --endpoints".to_owned()));
        assert_eq!(say(&["--data-dir=x"]), no_endpoints);
        assert_eq!(with_schemes("a:1, https://b:2"), "http://a:1,https://b:2");
    }
}
