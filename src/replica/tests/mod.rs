//! One member in a world of its own: files in memory, a clock that a test sets, and a disk that is done when a test
//! says so.
//!
//! [`world`] is the member and its world. [`transcript`] plays the files of `testdata`, each a story of its own with a
//! test of its name: what is asked, and what the member then wants done. `UPDATE=1 cargo test --lib replica::tests`
//! writes the answers anew, to be read as a change is read. [`lives`] has random lives with crashes, [`entries`] what
//! single entries lead to, [`damage`] a store whose records cannot be read, [`messages`] messages of other members that
//! no correct member sends. [`network`] is a world of several members: in [`cluster`] they come and go, and in
//! [`trouble`] disks and messages fail them at the wrong moment, and in [`force`] one goes on without the others.
#![forbid(unsafe_code)]

mod cluster;
mod damage;
mod entries;
mod force;
mod lives;
mod messages;
mod network;
mod transcript;
mod trouble;
mod world;

/// A test for each transcript.
macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            transcript::play(stringify!($name));
        })*

        #[test]
        fn every_transcript_is_played() {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/replica/testdata");
            let names = std::fs::read_dir(folder).unwrap();
            let mut found: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
            found.sort();
            let mut played = vec![$(concat!(stringify!($name), ".txt")),*];
            played.sort_unstable();
            assert_eq!(found, played);
        }
    };
}

transcripts! {
    bootstrap
    put
    group_commit
    restart
    torn_tail
    segments
    lease_and_compaction
    quota
    lease_checkpoint
    room
}
