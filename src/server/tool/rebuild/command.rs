//! The command line of `kevel rebuild`, and its steps.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use super::super::flags::{CommandLine, Flag};
use super::super::{Failed, STATUS_BAD_ARGUMENTS, finish};
use super::cluster::{Cluster, Others};
use super::note::Note;
use super::place::Place;
use crate::config::Url;
use crate::config::tls::TlsFiles;
use crate::page::Owner;
use crate::server::tls::Ports;

const HELP: &str = "\
Usage:
  kevel rebuild --data-dir DIR --endpoints URLS [flags]

Rebuilds a stopped member of a cluster whose data are damaged: the member is removed from the cluster and added again
with the same peer URLs, and its data directory is made anew. Start the member then as always: the others send it all
data. It has its vote from the moment it is added, so do not leave it stopped. An alarm that the old member has raised
is taken back by `etcdctl alarm disarm`.

What was in the directory is kept in DIR/member.damaged, a log that lies elsewhere in its folder's `damaged`. After an
interruption run the same command again: it goes on where it was. Run it as the user that the member runs as, or as
root; the new files belong to whom the old ones did.

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
    let files = |name: &str| line.get(name).unwrap_or_default().to_owned();
    let files = TlsFiles {
        cert: files("cert"),
        key: files("key"),
        trusted_ca: files("cacert"),
        ..TlsFiles::default()
    };
    let ports = ports(files, endpoints.iter().any(Url::is_tls))?;
    let place = Place::open(data_dir, line.path("wal-dir"))?;
    rebuild(&place, &Cluster { endpoints, ports })
}

/// The steps, each of which an earlier attempt may have done.
fn rebuild(place: &Place, others: &impl Others) -> Result<String, Failed> {
    let earlier = place.note()?;
    if let Some(note) = &earlier
        && let Some(new) = note.of_added()
        && place.is_placed(new)
    {
        place.forget()?;
        return Ok(said(place, note, new));
    }
    let old = match &earlier {
        Some(note) => note.of_removed(),
        None => {
            place.check_room()?;
            place.owner()?
        }
    };
    place.try_folders()?;
    let is_first = earlier.is_none();
    // Nothing was changed, so nothing is left.
    let unchanged = |why: String| {
        if is_first && let Err(failed) = place.forget() {
            return failed;
        }
        Failed::error(why)
    };
    let known = earlier.unwrap_or_else(|| Note {
        cluster_id: old.cluster_id,
        member_id: old.member_id,
        peer_urls: Vec::new(),
        is_learner: false,
        added: None,
        wal_dir: place.wal_dir(),
    });
    let mut note = others.look(known).map_err(unchanged)?;
    place.leave(&note)?;
    let added = others.replace(note.clone()).map_err(|refused| match refused.is_unchanged {
        true => unchanged(refused.why),
        false => unfinished(&refused.why),
    })?;
    let new = Owner { member_id: added, cluster_id: old.cluster_id };
    note.added = Some(added);
    place
        .leave(&note)
        .and_then(|()| place.renew(new))
        .and_then(|()| place.forget())
        .map_err(|failed| unfinished(&failed.text))?;
    Ok(said(place, &note, new))
}

fn unfinished(why: &str) -> Failed {
    Failed::error(format!("{why}. Run the same command again: it goes on where it was"))
}

fn said(place: &Place, note: &Note, new: Owner) -> String {
    format!(
        "member {:x} was removed from cluster {:x} and added again as {:x}; its data directory is new, and what was \
         there before is kept as {}. Start the member with its usual flags\n",
        note.member_id,
        note.cluster_id,
        new.member_id,
        place.kept().display()
    )
}

/// Endpoints as etcdctl takes them: without a scheme they are plain.
fn with_schemes(endpoints: &str) -> String {
    let whole = |endpoint: &str| match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    };
    endpoints.split(',').map(|endpoint| whole(endpoint.trim())).collect::<Vec<_>>().join(",")
}

/// What secures connections to the other members.
fn ports(files: TlsFiles, is_secure: bool) -> Result<Ports, Failed> {
    if is_secure { Ports::to_dial(files).map_err(Failed::error) } else { Ok(Ports::none()) }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::fs;
    use std::path::Path;

    use super::super::cluster::Refused;
    use super::*;
    use crate::server::tool::restore;

    const CLUSTER: u64 = 3;

    /// A cluster of member 5 and of others, which breaks off after so many calls and changes.
    struct Trial {
        root: PathBuf,
        ids: RefCell<Vec<u64>>,
        left: Cell<usize>,
    }

    impl Trial {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("kevel-rebuild-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            Self { root, ids: RefCell::new(vec![5, 7]), left: Cell::new(usize::MAX) }
        }

        fn member(&self) -> PathBuf {
            self.root.join("data/member")
        }

        fn begin(&self, wal: &Path, member_id: u64) {
            restore::make_empty(&self.member(), wal, owner(member_id)).unwrap();
        }

        fn place(&self, wal: Option<&Path>) -> Place {
            Place::open(self.root.join("data"), wal.map(Path::to_owned)).unwrap()
        }

        fn run(&self, wal: Option<&Path>) -> Result<String, String> {
            rebuild(&self.place(wal), self).map_err(|failed| failed.text)
        }

        fn breaks(&self) -> bool {
            let left = self.left.get();
            self.left.set(left.saturating_sub(1));
            left == 0
        }
    }

    impl Drop for Trial {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    impl Others for Trial {
        fn look(&self, mut note: Note) -> Result<Note, String> {
            if self.breaks() {
                return Err("broken".to_owned());
            }
            if self.ids.borrow().contains(&note.member_id) {
                note.peer_urls = vec!["http://c".to_owned()];
            }
            if note.peer_urls.is_empty() { Err("no more".to_owned()) } else { Ok(note) }
        }

        fn replace(&self, note: Note) -> Result<u64, Refused> {
            let broken = |is_unchanged| Err(Refused { why: "broken".to_owned(), is_unchanged });
            if self.breaks() {
                return broken(self.ids.borrow().contains(&note.member_id));
            }
            self.ids.borrow_mut().retain(|id| *id != note.member_id);
            if self.breaks() {
                return broken(false);
            }
            if !self.ids.borrow().contains(&9) {
                self.ids.borrow_mut().push(9);
            }
            if self.breaks() { broken(false) } else { Ok(9) }
        }
    }

    fn owner(member_id: u64) -> Owner {
        Owner { member_id, cluster_id: CLUSTER }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_interruption_at_any_call_is_mended_by_the_same_command() {
        for calls in 0..5 {
            let trial = Trial::new("calls");
            trial.begin(&trial.member().join("wal"), 7);
            trial.left.set(calls);
            let first = trial.run(None);
            assert_eq!(first.is_err(), calls < 4, "{first:?}");
            if calls < 2 {
                assert_eq!(names(&trial.root.join("data")), ["member"], "nothing was changed");
            } else if let Err(why) = first {
                assert!(why.contains("Run the same command again"), "{why}");
                assert_eq!(names(&trial.root.join("data")), ["member", "rebuilding"]);
            }
            trial.left.set(usize::MAX);
            if calls < 4 {
                let said = trial.run(None).unwrap();
                assert!(said.contains("member 7 was removed") && said.contains("as 9"), "{said}");
            }
            assert_eq!(names(&trial.root.join("data")), ["member", "member.damaged"]);
            assert_eq!(trial.place(None).owner().unwrap(), owner(9));
            assert_eq!(*trial.ids.borrow(), [5, 9]);
            let again = trial.run(None).unwrap_err();
            assert!(again.contains("member.damaged is there"), "{again}");
        }
    }

    #[test]
    fn an_interruption_between_two_folders_is_mended_by_the_same_command() {
        let trial = Trial::new("folders");
        let (data, wal) = (trial.root.join("data"), trial.root.join("wal"));
        trial.begin(&wal, 7);
        fs::write(trial.member().join("notes"), "").unwrap();
        // The new member is half made, and nothing was set aside.
        let note = Note {
            cluster_id: CLUSTER,
            member_id: 7,
            peer_urls: vec!["http://c".into()],
            is_learner: false,
            added: Some(9),
            wal_dir: Some(wal.display().to_string()),
        };
        *trial.ids.borrow_mut() = vec![5, 9];
        fs::create_dir_all(data.join("rebuilding/member/kevel")).unwrap();
        note.write(&data.join("rebuilding")).unwrap();
        let other = trial.run(None).unwrap_err();
        assert!(other.contains("--wal-dir"), "{other}");
        trial.run(Some(&wal)).unwrap();
        let whole = |trial: &Trial| {
            assert_eq!(names(&data), ["member", "member.damaged"]);
            assert!(data.join("member.damaged/notes").exists());
            assert_eq!(names(&wal).len(), 2, "a segment, and the folder of what was damaged");
            assert_eq!(names(&wal.join("damaged")).len(), 1);
            assert_eq!(trial.place(Some(&wal)).owner().unwrap(), owner(9), "store and log say so");
        };
        whole(&trial);
        // The log is new, the old member was set aside, and the new one is not there yet.
        fs::remove_dir_all(trial.member()).unwrap();
        fs::create_dir_all(data.join("rebuilding")).unwrap();
        note.write(&data.join("rebuilding")).unwrap();
        trial.run(Some(&wal)).unwrap();
        whole(&trial);
        // All is done, and nobody needs to be asked.
        fs::create_dir_all(data.join("rebuilding")).unwrap();
        note.write(&data.join("rebuilding")).unwrap();
        trial.left.set(0);
        trial.run(Some(&wal)).unwrap();
        whole(&trial);
    }

    #[test]
    fn nobody_is_removed_where_it_is_not_clear_who_is_damaged() {
        let trial = Trial::new("unclear");
        let wal = trial.member().join("wal");
        trial.begin(&wal, 7);
        trial.left.set(0);
        let said = || trial.run(None).unwrap_err();
        // The store is another member's.
        fs::remove_dir_all(trial.member().join("kevel")).unwrap();
        let elsewhere = trial.root.join("elsewhere");
        restore::make_empty(&elsewhere, &elsewhere.join("wal"), owner(5)).unwrap();
        fs::rename(elsewhere.join("kevel"), trial.member().join("kevel")).unwrap();
        let two = said();
        assert!(two.contains("store of member 5") && two.contains("log of member 7"), "{two}");
        // The log lies elsewhere, and nobody says so.
        fs::rename(&wal, trial.root.join("log")).unwrap();
        let forgotten = said();
        assert!(forgotten.contains("--wal-dir") && forgotten.contains("empty folder"), "{forgotten}");
        fs::create_dir(&wal).unwrap();
        assert_eq!(said(), "broken", "a log that is lost");
        // A store that cannot be read is no reason to ask the operator.
        fs::remove_dir(&wal).unwrap();
        fs::rename(trial.root.join("log"), &wal).unwrap();
        fs::write(trial.member().join("kevel/store"), [7; 8192]).unwrap();
        assert_eq!(said(), "broken", "the log says who it is");
        fs::write(wal.join("0000000000000000-0000000000000000.wal"), [7; 8192]).unwrap();
        assert!(said().contains("says which member it is"));
        // A member of etcd.
        fs::remove_dir_all(trial.member().join("kevel")).unwrap();
        fs::create_dir_all(trial.member().join("snap")).unwrap();
        fs::write(trial.member().join("snap/db"), "").unwrap();
        assert!(said().contains("it holds a member of etcd"));
    }

    #[test]
    fn folders_are_tried_before_anybody_is_asked() {
        let trial = Trial::new("tried");
        trial.begin(&trial.member().join("wal"), 7);
        trial.left.set(0);
        // Nobody makes a folder there.
        let said = trial.run(Some(Path::new("/proc/self"))).unwrap_err();
        assert!(said.contains("cannot make folders in /proc/self"), "{said}");
        let running = trial.place(None);
        let refused = Place::open(trial.root.join("data"), None).err().unwrap().text;
        assert!(refused.contains("another process uses"), "{refused}");
        drop(running);
        assert_eq!(trial.run(None).unwrap_err(), "broken");
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
        let mistyped = say(&["--data-dir=/no/such/folder", "--endpoints=127.0.0.1:1"]).unwrap_err().1;
        assert!(mistyped.contains("there is no such folder") && !mistyped.contains("remove"), "{mistyped}");
    }
}
