//! Files that are looked at and restored, and what is said of those that cannot be.

use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use super::snapshot::command;
use crate::bbolt::fuzz::{Buckets, write};
use crate::btree::{Read, Tree};
use crate::config::{self, Config};
use crate::replica::Opening;
use crate::server::boot::open::{Opened, open};
use crate::server::tls::Ports;
use crate::stdx::prng::Prng;
use crate::wire::KeyValue;

/// A folder of its own for each test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("kevel-tool-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        Self(root)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Writes a file with its checksum behind it.
    fn save(&self, name: &str, database: &[u8]) -> String {
        let mut bytes = database.to_vec();
        bytes.extend_from_slice(digest(&SHA256, database).as_ref());
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of etcd with so many keys, and with further buckets in front of them.
fn database(keys: i64, further: Buckets) -> Vec<u8> {
    let change = |n: i64| {
        let main = n + 2;
        let key = format!("key/{n}");
        let (create_revision, mod_revision, version) = (main, main, 1);
        let kv = KeyValue {
            key: key.as_bytes(),
            create_revision,
            mod_revision,
            version,
            value: &[7; 5000],
            lease: 0,
        };
        let mut value = Vec::new();
        kv.encode(&mut value);
        ([&main.to_be_bytes()[..], b"_", &[0; 8]].concat(), value)
    };
    let mut buckets = further;
    buckets.push((b"key".to_vec(), (0..keys).map(change).collect()));
    write(&buckets, Prng::new(1)).unwrap()
}

fn run(line: &[&str]) -> Result<String, (u8, String)> {
    let args: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
    command(&args).map_err(|failed| (failed.status, failed.text))
}

fn config(dir: &str) -> Config {
    config::of_line(&format!("--name=default --data-dir={dir}"))
}

fn opened(dir: &str) -> Result<Opened, String> {
    open(&config(dir), &Ports::none())
}

#[test]
fn a_restored_directory_is_that_of_a_member_with_all_keys() {
    let folder = Folder::new("restored");
    // More than one transaction takes in.
    let file = folder.save("file", &database(4000, vec![]));
    assert!(run(&["status", &file]).unwrap().contains(", 4001, 4000, "));
    let dir = folder.path("data");
    let told = "added member 8e9e05c52164694d (default, http://localhost:2380) to cluster cdf818194e3a8c32\n";
    assert_eq!(run(&["restore", &file, "--data-dir", &dir]), Ok(told.to_owned()));
    let opened = opened(&dir).unwrap();
    // The ids of etcd's default configuration.
    assert_eq!((opened.member_id, opened.cluster_id), (0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32));
    assert!(matches!(&opened.opening, Opening::Recover(log, _) if log.entries.is_empty()));
    let applied = opened.store.applied();
    assert_eq!((applied.index, applied.term, applied.revision, applied.compact_revision), (1, 1, 4001, -1));
    let mut reader = opened.store.readers().register();
    let state = reader.snapshot();
    let mut cursor = state.cursor(Tree::Index);
    cursor.seek(&[]);
    let mut keys = 0;
    while cursor.valid() {
        keys += 1;
        cursor.next();
    }
    assert_eq!(keys, 4000);
}

#[test]
fn a_bumped_revision_is_compacted() {
    let folder = Folder::new("bumped");
    let (file, dir) = (folder.save("file", &database(3, vec![])), folder.path("data"));
    let bump = ["--bump-revision", "100", "--mark-compacted"];
    for one in [&bump[..2], &bump[2..]] {
        let line = [&["restore", &file, "--data-dir", &dir][..], one].concat();
        let text = "--mark-compacted required if --revision-bump > 0".to_owned();
        assert_eq!(run(&line), Err((128, text)));
    }
    run(&[&["restore", &file, "--data-dir", &dir][..], &bump].concat()).unwrap();
    let applied = opened(&dir).unwrap().store.applied();
    assert_eq!((applied.revision, applied.compact_revision), (104, 104));
}

#[test]
fn what_is_not_whole_or_in_the_way_is_refused() {
    let folder = Folder::new("refused");
    let whole = database(3, vec![]);
    let file = folder.save("file", &whole);
    let dir = folder.path("data");
    let refusal = |file: &str, more: &[&str]| {
        let line = [&["restore", file, "--data-dir", &dir][..], more].concat();
        let (status, text) = run(&line).unwrap_err();
        assert_eq!(status, 1, "{text}");
        text
    };
    fs::write(folder.path("bare"), &whole).unwrap();
    let bare = "snapshot missing hash but --skip-hash-check=false";
    assert_eq!(refusal(&folder.path("bare"), &[]), bare);
    let mut altered = fs::read(&file).unwrap();
    altered[5000] ^= 1;
    fs::write(folder.path("altered"), altered).unwrap();
    assert!(refusal(&folder.path("altered"), &[]).starts_with("expected sha256 ["));
    assert!(refusal(&file, &["--name", "other"]).contains("couldn't find local name"));
    assert!(refusal(&folder.path("none"), &[]).ends_with("none: no such file or directory"));
    assert!(!Path::new(&dir).exists(), "nothing was made");
    fs::create_dir(&dir).unwrap();
    run(&["restore", &folder.path("bare"), "--data-dir", &dir, "--skip-hash-check"]).unwrap();
    assert!(refusal(&file, &[]).contains("not empty"));
    let (other, log) = (folder.path("other"), format!("{dir}/member/wal"));
    let line = ["restore", &file, "--data-dir", &other, "--wal-dir", &log];
    assert!(run(&line).unwrap_err().1.ends_with("exists"));
}

#[test]
fn what_was_not_finished_is_no_member() {
    let folder = Folder::new("unfinished");
    let users: Buckets = vec![(b"authUsers".to_vec(), vec![(b"root".to_vec(), vec![])])];
    let (file, dir) = (folder.save("file", &database(3, users)), folder.path("data"));
    assert!(run(&["restore", &file, "--data-dir", &dir]).unwrap_err().1.contains("users"));
    let refusal = opened(&dir).err().expect("a start refuses it");
    assert!(refusal.contains("is gone"), "{refusal}");
}

#[test]
fn a_restored_member_whose_store_is_lost_does_not_start_empty() {
    let folder = Folder::new("lost");
    let file = folder.save("file", &database(3, vec![]));
    let founders = "--initial-cluster=default=http://localhost:2380,other=http://localhost:2480";
    for (dir, more) in [("alone", &[][..]), ("two", &[founders][..])] {
        let dir = folder.path(dir);
        run(&[&["restore", &file, "--data-dir", &dir][..], more].concat()).unwrap();
        let store = config(&dir).store_path();
        let kept = fs::read(&store).unwrap();
        fs::remove_file(&store).unwrap();
        let refusal = opened(&dir).err().expect("the log has no keys");
        assert!(refusal.contains("begins anew behind a snapshot"), "{refusal}");
        fs::write(&store, kept).unwrap();
        let applied = opened(&dir).unwrap().store.applied();
        assert_eq!((applied.index, applied.revision), (1 + more.len() as u64, 4), "put back, it goes on");
    }
}

#[test]
fn arguments_that_make_no_sense_are_said() {
    for (line, status, text) in [
        (&["status"][..], 128, "snapshot status requires exactly one argument"),
        (&["restore", "a", "b"], 128, "snapshot restore requires exactly one argument"),
        (&["status", "none"], 1, "stat none: no such file or directory"),
        (&["status", "--foo"], 1, "unknown flag: --foo"),
        (&["save"], 128, "unknown command \"save\" for \"kevel snapshot\""),
        (
            &["restore", "a", "--bump-revision=x"],
            1,
            "invalid argument \"x\" for \"--bump-revision\" flag: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
    ] {
        assert_eq!(run(line), Err((status, text.to_owned())));
    }
    assert!(run(&["status", "-h"]).unwrap().contains("kevel snapshot restore FILE"));
}
