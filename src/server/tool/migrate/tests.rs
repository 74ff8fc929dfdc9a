//! Members that go from one format to the other and back, and those that cannot.

use std::fs;
use std::path::{Path, PathBuf};

use raft::eraftpb::{Entry, HardState};

use super::command::{command, config_of};
use crate::bbolt::fuzz::{Buckets, Pairs, write};
use crate::bbolt::{Database, Source};
use crate::replica::Opening;
use crate::server::boot::open::{Opened, open};
use crate::server::io::file_source::FileSource;
use crate::server::tls::Ports;
use crate::snapshot::status::each_pair;
use crate::stdx::prng::Prng;
use crate::wal::{Appender, Metadata, SnapshotMark};
use crate::wire::KeyValue;

const MEMBER: u64 = 0x0abc;
const CLUSTER: u64 = 0x77;
/// The last entry that the database has.
const REACHED: u64 = 40;
/// The last entry of the log, which is known to be committed as far as the one before.
const LAST: u64 = 43;
const TERM: u64 = 5;

/// A data directory of its own for each test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("kevel-migrate-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    /// With a member of etcd that has so many keys, and with pairs of further buckets.
    fn etcd(name: &str, keys: i64, further: Buckets) -> Self {
        let folder = Self::new(name);
        folder.write_database("db", REACHED, keys, further);
        folder.write_log(7);
        folder
    }

    fn write_database(&self, name: &str, reached: u64, keys: i64, further: Buckets) {
        let file = database(reached, keys, further);
        fs::create_dir_all(self.snap()).unwrap();
        fs::write(self.snap().join(name), file).unwrap();
    }

    /// A log that begins behind the entry `begin`.
    fn write_log(&self, begin: u64) {
        let wal = self.0.join("member/wal");
        fs::create_dir_all(&wal).unwrap();
        let metadata = Metadata { node_id: MEMBER, cluster_id: CLUSTER };
        let mut log = Appender::create(metadata);
        let state = HardState { term: TERM, vote: MEMBER, commit: begin };
        let mark = SnapshotMark { index: begin, term: TERM, conf_state: None };
        let mut file = Vec::new();
        let entries: Vec<Entry> =
            (begin + 1..=LAST).map(|index| Entry { term: TERM, index, ..Entry::default() }).collect();
        let state = |commit| HardState { commit, ..state };
        let mut writes = vec![log.restart(&mark, &state(begin), Vec::new())];
        writes.push(log.append(&entries, Some(&state(LAST - 1)), None, Vec::new()));
        writes.push(log.append(&[], Some(&state(LAST - 1)), None, Vec::new()));
        for write in &writes {
            file.resize(write.offset as usize, 0);
            file.extend_from_slice(&write.bytes);
        }
        fs::write(wal.join(writes[0].segment.to_string()), file).unwrap();
    }

    fn snap(&self) -> PathBuf {
        self.0.join("member/snap")
    }

    fn shown(&self) -> String {
        self.0.display().to_string()
    }

    fn run(&self, flag: &str) -> Result<String, String> {
        run(&[flag, &self.shown()])
    }

    fn names(&self) -> Vec<String> {
        names(&self.0)
    }

    fn opened(&self) -> Opened {
        open(&config_of(&self.0, None).unwrap(), &Ports::none()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn run(args: &[&str]) -> Result<String, String> {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    command(&args).map_err(|failed| failed.text)
}

fn pair(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}

fn change(main: i64) -> (Vec<u8>, Vec<u8>) {
    let key = format!("key/{main}");
    let (create_revision, mod_revision, version, lease) = (main, main, 1, if main % 3 == 0 { 99 } else { 0 });
    let kv = KeyValue { key: key.as_bytes(), create_revision, mod_revision, version, value: b"value", lease };
    let mut value = Vec::new();
    kv.encode(&mut value);
    pair(&[&main.to_be_bytes()[..], b"_", &[0; 8]].concat(), &value)
}

/// A member as etcd lists it, with further fields.
fn member(id: u64, further: &str) -> (Vec<u8>, Vec<u8>) {
    let json = format!("{{\"id\":{id},\"peerURLs\":[\"http://h{id}:2380\"],\"name\":\"m{id}\"{further}}}");
    pair(format!("{id:x}").as_bytes(), json.as_bytes())
}

/// The bucket of a database that has reached an entry, with what it says of the voters, and that of a release.
fn meta(reached: u64, conf_state: &str) -> (Vec<u8>, Pairs) {
    let mut pairs = vec![
        pair(b"confState", conf_state.as_bytes()),
        pair(b"consistent_index", &reached.to_be_bytes()),
        pair(b"storageVersion", b"3.7.0"),
        pair(b"term", &TERM.to_be_bytes()),
    ];
    pairs.retain(|(_, value)| !value.is_empty());
    (b"meta".to_vec(), pairs)
}

/// What etcd 3.7 has of a cluster of two. Further buckets take the place of those of their names.
fn database(reached: u64, keys: i64, further: Buckets) -> Vec<u8> {
    // An id of 99 and a time to live of 600 seconds.
    let lease = pair(&99i64.to_be_bytes(), &[0x08, 99, 0x10, 0xd8, 0x04]);
    let mut buckets: Buckets = vec![
        (b"alarm".to_vec(), vec![pair(&[0x08, 0xbc, 0x15, 0x10, 1], b"")]),
        (b"cluster".to_vec(), vec![pair(b"clusterVersion", b"3.7.0")]),
        (b"key".to_vec(), (2..keys + 2).map(change).collect()),
        (b"lease".to_vec(), vec![lease]),
        (b"members".to_vec(), vec![member(0x1000, ""), member(MEMBER, "")]),
        (b"members_removed".to_vec(), vec![pair(b"5", b"removed")]),
        meta(reached, r#"{"voters":[2748,4096],"auto_leave":false}"#),
    ];
    buckets.retain(|(name, _)| further.iter().all(|(other, _)| other != name));
    buckets.extend(further);
    buckets.sort();
    write(&buckets, Prng::new(1)).unwrap()
}

/// Pairs of the buckets that two databases of one state have in common.
fn facts(path: &Path) -> Buckets {
    let source = FileSource::open(path).unwrap();
    let database = Database::open(&source as &dyn Source).unwrap();
    let mut buckets = Buckets::new();
    for name in ["alarm", "cluster", "key", "lease", "members", "members_removed", "meta"] {
        let mut pairs = Pairs::new();
        let found = database.bucket(name.as_bytes()).unwrap().unwrap();
        each_pair(found, |key, value| {
            pairs.push(pair(key, value));
            Ok(())
        })
        .unwrap();
        buckets.push((name.into(), pairs));
    }
    buckets
}

#[test]
fn a_member_is_the_same_after_both_ways() {
    let folder = Folder::etcd("ways", 3000, vec![]);
    let before = facts(&folder.snap().join("db"));
    let said = folder.run("--from").unwrap();
    assert!(said.contains("at revision 3001 and entry 40") && said.contains("member.etcd"), "{said}");
    assert_eq!(folder.names(), ["member", "member.etcd"]);
    let opened = folder.opened();
    assert_eq!((opened.member_id, opened.cluster_id), (MEMBER, CLUSTER));
    let applied = opened.store.applied();
    assert_eq!((applied.index, applied.term, applied.revision), (REACHED, TERM, 3001));
    let Opening::Recover(recovered, _) = opened.opening else { panic!("it has a log") };
    assert_eq!(recovered.state, HardState { term: TERM, vote: MEMBER, commit: LAST - 1 });
    let indices: Vec<u64> = recovered.entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indices, (8..=LAST).collect::<Vec<_>>(), "what others may need is kept");
    drop(opened.store);
    drop(opened.wal_dir);

    assert!(folder.run("--from").unwrap_err().contains("holds a member of Kevel already"));
    let said = folder.run("--to-etcd").unwrap();
    assert!(said.contains("as a member of etcd, at revision 3001 and entry 40"), "{said}");
    assert_eq!(folder.names(), ["member", "member.etcd", "member.kevel"]);
    assert_eq!(names(&folder.0.join("member")), ["snap", "wal"]);
    assert_eq!(facts(&folder.snap().join("db")), before);
    assert!(folder.run("--to-etcd").unwrap_err().contains("holds a member of etcd already"));
    let way = folder.run("--from").unwrap_err();
    assert!(way.contains("member.etcd is in the way"), "{way}");
}

#[test]
fn another_directory_is_made_and_the_first_is_left_alone() {
    let folder = Folder::etcd("elsewhere", 10, vec![]);
    let before = fs::read(folder.snap().join("db")).unwrap();
    let other = folder.0.join("other");
    let line = ["--from", &folder.shown(), "--data-dir", &other.display().to_string()];
    run(&line).unwrap();
    assert_eq!(
        (folder.names(), names(&other)),
        (vec!["member".to_owned(), "other".to_owned()], vec!["member".to_owned()])
    );
    assert_eq!(fs::read(folder.snap().join("db")).unwrap(), before);
    assert!(run(&line).unwrap_err().contains("is in the way"));
}

/// Undoes the last steps of a migration in place that has replaced a member of this kind: it keeps its old name, and
/// the note is there.
fn undo_last_steps(folder: &Folder, kind: &str) {
    let staged = folder.0.join("migrating");
    fs::create_dir(&staged).unwrap();
    fs::rename(folder.0.join(format!("member.{}", kind.to_lowercase())), staged.join("member")).unwrap();
    fs::write(staged.join("complete"), kind).unwrap();
}

#[test]
fn what_a_crash_leaves_is_removed_or_finished() {
    let folder = Folder::etcd("crash", 10, vec![]);
    fs::create_dir_all(folder.0.join("migrating/member/kevel")).unwrap();
    fs::write(folder.0.join("migrating/member/kevel/store"), "half").unwrap();
    folder.run("--from").unwrap();
    assert_eq!(folder.names(), ["member", "member.etcd"]);
    // Both have changed places, and the old one does not have its name yet.
    undo_last_steps(&folder, "etcd");
    let said = folder.run("--from").unwrap();
    assert!(said.contains("of Kevel now") && said.contains("member.etcd"), "{said}");
    assert_eq!(folder.names(), ["member", "member.etcd"]);
    assert!(folder.snap().read_dir().unwrap().next().is_none());
    assert_eq!(folder.opened().store.applied().index, REACHED);
    // The name was given, and the note is still there.
    fs::create_dir(folder.0.join("migrating")).unwrap();
    fs::write(folder.0.join("migrating/complete"), "etcd").unwrap();
    assert!(folder.run("--from").unwrap().contains("of Kevel now"));
    assert_eq!(folder.names(), ["member", "member.etcd"]);
    // A crash before the exchange: the complete member is made again.
    fs::remove_dir_all(folder.0.join("member")).unwrap();
    fs::rename(folder.0.join("member.etcd"), folder.0.join("member")).unwrap();
    fs::create_dir_all(folder.0.join("migrating/member/kevel")).unwrap();
    fs::write(folder.0.join("migrating/complete"), "etcd").unwrap();
    assert!(folder.run("--from").unwrap().contains("entry 40"));
    assert_eq!(folder.names(), ["member", "member.etcd"]);
}

#[test]
fn half_of_a_member_is_never_taken_for_a_whole_one() {
    let folder = Folder::etcd("half", 10, vec![]);
    folder.run("--from").unwrap();
    fs::remove_dir_all(folder.0.join("member.etcd")).unwrap();
    // A migration back that was killed has left half of a database.
    fs::create_dir_all(folder.0.join("migrating/member/snap")).unwrap();
    fs::write(folder.0.join("migrating/member/snap/db"), "half").unwrap();
    let said = folder.run("--from").unwrap_err();
    assert!(said.contains("there is nothing to migrate"), "{said}");
    assert_eq!(folder.names(), ["member", "migrating"], "nothing is kept as etcd's");
    assert!(folder.run("--to-etcd").unwrap().contains("as a member of etcd"));
    assert_eq!(folder.names(), ["member", "member.kevel"]);
}

#[test]
fn a_member_that_was_replaced_is_kept_whoever_migrates_next() {
    let folder = Folder::etcd("kept", 10, vec![]);
    let before = fs::read(folder.snap().join("db")).unwrap();
    folder.run("--from").unwrap();
    undo_last_steps(&folder, "etcd");
    assert!(folder.run("--to-etcd").unwrap().contains("as a member of etcd"));
    assert_eq!(folder.names(), ["member", "member.etcd", "member.kevel"]);
    assert_eq!(fs::read(folder.0.join("member.etcd/snap/db")).unwrap(), before);
    // A folder of the operator's own.
    let folder = Folder::etcd("own", 10, vec![]);
    fs::create_dir_all(folder.0.join("migrating")).unwrap();
    fs::write(folder.0.join("migrating/notes"), "").unwrap();
    let said = folder.run("--from").unwrap_err();
    assert!(said.contains("migrating/notes is not of an earlier migration"), "{said}");
    assert!(folder.0.join("migrating/notes").exists());
}

#[test]
fn another_directory_that_is_complete_is_known_after_a_crash() {
    let folder = Folder::etcd("elsewhere-crash", 10, vec![]);
    let other = folder.0.join("above/other");
    let line = ["--from", &folder.shown(), "--data-dir", &other.display().to_string()];
    run(&line).unwrap();
    fs::create_dir(other.join("migrating")).unwrap();
    fs::write(other.join("migrating/complete"), "etcd").unwrap();
    let said = run(&line).unwrap();
    assert!(said.contains("of Kevel now"), "{said}");
    assert_eq!(names(&other), ["member"]);
}

#[test]
fn members_that_do_not_vote_as_they_are_listed_are_refused() {
    let listed = |further: &str| (b"members".to_vec(), vec![member(0x1000, further), member(MEMBER, "")]);
    let learner = listed(",\"isLearner\":true");
    let removed = (b"members".to_vec(), vec![member(0x1000, ""), member(0x2000, ""), member(MEMBER, "")]);
    for (what, bucket) in [("promoted", learner.clone()), ("zombie", removed)] {
        let folder = Folder::etcd(what, 10, vec![bucket]);
        let said = folder.run("--from").unwrap_err();
        assert!(said.contains("voters abc 1000 and the learners none") && said.contains("3.5.26"), "{said}");
        assert_eq!(folder.names(), ["member"]);
    }
    let both = r#"{"voters":[2748],"learners":[4096]}"#;
    Folder::etcd("learner", 10, vec![learner, meta(REACHED, both)]).run("--from").unwrap();
    for told in ["", "{}", r#"{"voters":[]}"#] {
        let said = Folder::etcd("silent", 10, vec![meta(REACHED, told)]).run("--from").unwrap_err();
        assert!(said.contains("does not say who votes"), "{said}");
    }
}

#[test]
fn a_log_that_lies_apart_is_set_aside() {
    let folder = Folder::etcd("apart", 10, vec![]);
    let wal = folder.0.join("wal");
    fs::rename(folder.0.join("member/wal"), &wal).unwrap();
    let said = folder.run("--from").unwrap_err();
    assert!(said.contains("is not there") && said.contains("--wal-dir"), "{said}");
    let wal_dir = wal.display().to_string();
    let line = ["--from", &folder.shown(), "--wal-dir", &wal_dir];
    let said = run(&line).unwrap();
    assert!(said.contains("Do not name --wal-dir any more") && said.contains("wal/member.etcd"), "{said}");
    assert_eq!(names(&wal), ["member.etcd"]);
    assert_eq!(names(&wal.join("member.etcd")).len(), 1);
    let refused = open(&config_of(&folder.0, Some(&wal)).unwrap(), &Ports::none()).err().unwrap();
    assert!(refused.contains("is gone"), "{refused}");
    assert_eq!(folder.opened().store.applied().index, REACHED);
    // The same folder that is taken without the flag.
    let within = folder.0.join("member/wal").display().to_string();
    let said = run(&["--to-etcd", &folder.shown(), "--wal-dir", &within]).unwrap();
    assert!(said.contains("Do not name --wal-dir any more"), "{said}");
    assert!(folder.0.join("member.kevel/wal").read_dir().unwrap().next().is_some());
    assert!(folder.0.join("member/wal").read_dir().unwrap().next().is_some());
}

#[test]
fn the_snapshot_of_a_leader_that_etcd_had_not_taken_in_is_taken() {
    let folder = Folder::new("behind");
    folder.write_database("db", 12, 5, vec![]);
    folder.write_log(30);
    let said = folder.run("--from").unwrap_err();
    assert!(said.contains("up to 12") && said.contains("behind entry 30"), "{said}");
    folder.write_database("000000000000001e.snap.db", 30, 20, vec![]);
    assert!(folder.run("--from").unwrap().contains("at revision 21 and entry 30"));
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_changed() {
    let user = (b"authUsers".to_vec(), vec![pair(b"root", b"")]);
    let folder = Folder::etcd("users", 10, vec![user]);
    assert!(folder.run("--from").unwrap_err().contains("etcdctl auth disable"));
    assert_eq!(folder.names(), ["member"]);

    let folder = Folder::etcd("used", 10, vec![]);
    let running = fs::File::open(folder.snap().join("db")).unwrap();
    running.lock().unwrap();
    assert!(folder.run("--from").unwrap_err().contains("is in use"));
    drop(running);
    let database = fs::read(folder.snap().join("db")).unwrap();
    fs::write(folder.snap().join("db"), &database[..database.len() / 2]).unwrap();
    folder.run("--from").unwrap_err();
    assert_eq!(folder.names(), ["member"]);
    fs::write(folder.snap().join("db"), database).unwrap();
    assert!(folder.run("--to-etcd").unwrap_err().contains("holds a member of etcd already"));
    fs::create_dir(folder.0.join("member/kevel")).unwrap();
    std::os::unix::fs::symlink("store", folder.0.join("member/kevel/store")).unwrap();
    let said = folder.run("--from").unwrap_err();
    assert!(
        said.starts_with("open ") && said.contains("member/kevel/store"),
        "nobody knows whose it is: {said}"
    );
    fs::remove_dir_all(folder.0.join("member/kevel")).unwrap();
    fs::remove_dir_all(folder.0.join("member/wal")).unwrap();
    folder.write_log(REACHED);
    folder.run("--from").unwrap();
    let folder = Folder::new("nobody");
    assert!(folder.run("--from").unwrap_err().contains("holds no member of etcd"));
}

#[test]
fn a_database_that_is_damaged_in_its_midst_leaves_nothing_of_what_was_begun() {
    let folder = Folder::etcd("damaged", 3000, vec![]);
    let mut database = fs::read(folder.snap().join("db")).unwrap();
    let page = database.len() / 4096 / 2 * 4096;
    database[page..page + 64].fill(0xff);
    fs::write(folder.snap().join("db"), database).unwrap();
    let said = folder.run("--from").unwrap_err();
    assert!(said.contains("member/snap/db"), "{said}");
    assert_eq!(folder.names(), ["member"]);
}

#[test]
fn a_log_that_ends_too_early_is_etcds_to_mend() {
    let folder = Folder::etcd("early", 10, vec![]);
    folder.write_database("db", LAST + 5, 10, vec![]);
    let said = folder.run("--from").unwrap_err();
    assert!(said.contains("Start etcd once more") && !said.contains("kevel rebuild"), "{said}");
    assert_eq!(folder.names(), ["member"]);
}

#[test]
fn arguments_that_make_no_sense_are_said() {
    for line in [&["--from", "a", "--to-etcd", "b"][..], &["--data-dir", "a"], &["--from", "a", "b"]] {
        assert!(run(line).unwrap_err().contains("migrate takes"), "{line:?}");
    }
    assert!(run(&["--to", "a"]).unwrap_err().contains("unknown flag"));
    assert!(run(&[]).unwrap().contains("--to-etcd DIR") && run(&["-h"]).unwrap().contains("--from DIR"));
}
