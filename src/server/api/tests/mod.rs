//! The API from outside, without sockets and disks: one member in the executor of the test, its replica and session
//! core driven as the server drives them, and a client of the h2 crate at the other end of a connection in memory.
//!
//! ```text
//!   transcript ──▶ client ══ pipe ══ grpc::connection ──▶ Api ──▶ Session ══ lanes ══ Replica over files in memory
//! ```
//!
//! [`member`] is the member, [`pipe`] the connection, [`client`] the client. [`transcript`] plays the files of
//! `testdata`, each a story of its own with a test of its name: what is asked, and what is answered, as etcd 3.7.3
//! answers it. `UPDATE=1 cargo test --lib api::tests` writes the answers anew, to be read as a change is read.
//! [`leases`] has what is too long for a transcript, [`reads`] what is counted of reads, [`snapshots`] the files that
//! are sent as streams, [`held`] what clients that take nothing make a core hold.
#![forbid(unsafe_code)]

mod client;
mod held;
mod leases;
mod member;
mod pipe;
mod reads;
mod snapshots;
mod transcript;

/// A test for each transcript.
macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            transcript::play(stringify!($name));
        })*

        /// Those that have a test.
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

transcripts! {
    cluster
    compaction
    delete_range
    lease
    lease_keep_alive
    maintenance
    put
    quota
    range
    range_stream
    txn
    undecodable
    watch
    watch_history
}

#[test]
fn every_transcript_has_a_test() {
    let folder = format!("{}/src/server/api/testdata", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).expect("the folder of transcripts");
    let mut found: Vec<String> = files
        .map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, NAMES);
}
