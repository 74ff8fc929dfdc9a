//! Planted bugs: proof that the judge can fail.
//!
//! Each is switched on at a seam of the simulated world, so that the member itself is always the real one.
#![forbid(unsafe_code)]

macro_rules! plants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $seed:literal;)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plant { $($(#[doc = $doc])* $name,)* }

        impl Plant {
            /// All of them.
            pub const ALL: &[Plant] = &[$(Plant::$name,)*];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Plant::$name => $text,)* }
            }

            /// A seed that finds it.
            pub fn seed(self) -> u64 {
                match self { $(Plant::$name => $seed,)* }
            }

            /// What is wrong with it.
            pub fn story(self) -> &'static str {
                match self { $(Plant::$name => concat!($($doc),*),)* }
            }
        }
    };
}

plants! {
    /// A sync of the log says it is done and does nothing.
    SkippedSync = "skipped-sync", 5;
    /// The end of a log write is reported before it has come.
    EarlySync = "early-sync", 0;
    /// The store claims an index one below what its trees contain, so an entry is applied twice.
    AppliedBehind = "applied-behind", 8;
    /// The store claims an index one above what its trees contain, so an entry is left out.
    AppliedAhead = "applied-ahead", 15;
    /// What a torn write left behind the end of the log stays there.
    TailNotZeroed = "tail-not-zeroed", 342;
    /// Recovery takes the last whole record for torn.
    LastRecordDropped = "last-record-dropped", 1;
    /// A checkpoint is reported durable before it is, so log and pages go too early.
    EarlyCheckpoint = "early-checkpoint", 3269;
    /// A sync of the store file does nothing.
    SkippedStoreSync = "skipped-store-sync", 8;
    /// The meta page of a checkpoint is written before the pages that it names are durable.
    MetaBeforePages = "meta-before-pages", 10;
    /// The log loses one segment more than the replica released.
    ReleasedTooMuch = "released-too-much", 1;
    /// Segments are deleted as soon as a checkpoint of their entries has begun.
    DeletedEarly = "deleted-early", 206;
    /// The name of a new segment is not made durable before the log counts on the segment.
    NameNotSynced = "name-not-synced", 5;
    /// A start does not make durable what the segments are called.
    StartNamesUnsynced = "start-names-unsynced", 342;
    /// A segment that is used again is not filled with zeros before.
    RecycledUnzeroed = "recycled-unzeroed", 29;
    /// A disk that was full once is full for ever.
    FullForEver = "full-for-ever", 4;
    /// A compaction takes a pair that is still to be read.
    CompactionEatsLive = "compaction-eats-live", 8;
    /// A linearizable read asks nobody: after a restart it shows the last checkpoint.
    StaleRead = "stale-read", 300;
    /// A response with events is lost on its way to somebody who catches up.
    LostOnCatchUp = "lost-on-catch-up", 10;
    /// A response with events comes twice.
    DoubledEvent = "doubled-event", 10;
    /// Progress overtakes events on their way.
    ProgressOvertakes = "progress-overtakes", 10;
    /// A restart brings back a lease that was revoked.
    LeaseRevived = "lease-revived", 40;
    /// The member's clock is a fifth too fast, so leases expire early.
    FastClock = "fast-clock", 6;
    /// A long answer pins the revision above the one that it reads.
    PinTooHigh = "pin-too-high", 10;
    /// A pin is not always given back.
    PinForgotten = "pin-forgotten", 0;
    /// A HashKV pins the revision up to which it digests, and not the compaction below it.
    HashUnpinned = "hash-unpinned", 155;
    /// A list is planned anew when its revision is pinned, on what has been written meanwhile.
    ListReplanned = "list-replanned", 76;
    /// A message of a RangeStream is lost.
    StreamChunkLost = "stream-chunk-lost", 78;
    /// A message of a RangeStream begins with the last pair of the one before.
    StreamRepeats = "stream-repeats", 78;
    /// A core keeps a snapshot for ever, and with it every page that was freed since.
    SnapshotKept = "snapshot-kept", 11;
    /// The end of a checkpoint is not told, so pages that it has freed are held for ever.
    CheckpointUntold = "checkpoint-untold", 319;
    /// The hash of a compaction is lost, so its garbage waits for ever.
    DigestLost = "digest-lost", 0;
    /// A fragment of a watch response is lost.
    FragmentLost = "fragment-lost", 97;
    /// A fragment of a watch response lacks its last event.
    FragmentCut = "fragment-cut", 97;
    /// A response that is sent in parts lacks an event where one part ends.
    EventBetweenParts = "event-between-parts", 38;
    /// The last fragment of a watch response is marked as if more followed.
    LastFragmentMarked = "last-fragment-marked", 10;
    /// Progress is promised while parts of a response are still owed.
    ProgressAmidParts = "progress-amid-parts", 38;
    /// A stream that was full is not told that it has room again.
    RoomUntold = "room-untold", 56;
    /// An event lacks its previous value.
    PrevLost = "prev-lost", 0;
    /// An event that was suspended goes on one watcher too far behind the last one it met.
    WatcherSkipped = "watcher-skipped", 3;
    /// An event that was suspended goes on with watchers whom it has met.
    WatcherMetTwice = "watcher-met-twice", 3;
    /// A lane puts an empty batch in the place of one that it has lost.
    GapUnseen = "gap-unseen", 29;
    /// The events of two writes are published in the wrong order.
    BatchesSwapped = "batches-swapped", 1;
    /// An answer leaves before the events of its write.
    ReplyOvertakes = "reply-overtakes", 0;
    /// A count of leaves is used for revisions older than the newest in them.
    CountTooEarly = "count-too-early", 253;
    /// A key whose revisions span two leaves is counted in both.
    CountTwice = "count-twice", 1987;
    /// A restart forgets which alarms are raised.
    AlarmForgotten = "alarm-forgotten", 23;
    /// A restart brings back an alarm that was cleared.
    AlarmRevived = "alarm-revived", 647;
    /// The member does not look at its quota.
    QuotaIgnored = "quota-ignored", 106;
    /// A quota that was raised at a restart stays what it was.
    QuotaKept = "quota-kept", 206;
    /// A restart forgets what a checkpoint has left of a lease.
    RemainingForgotten = "remaining-forgotten", 1591;
    /// A reply that comes too late answers whoever has its slot by then.
    TicketReused = "ticket-reused", 11;
    /// A reply is lost between the cores.
    ReplyLost = "reply-lost", 6;
    /// What waits for a client that has gone keeps its room.
    ForgottenKept = "forgotten-kept", 1;
    /// With a client that has gone, work of another client is forgotten.
    AnotherForgotten = "another-forgotten", 1;
    /// The watches of a client that has gone stay.
    StreamKept = "stream-kept", 1;
    /// What a full lane refuses goes through all the same.
    RefusedAndDone = "refused-and-done", 5;
    /// A deletion that was suspended goes on one key too far behind the last one that it deleted.
    KeySkipped = "key-skipped", 4;
    /// An entry counts as applied, and is published, when its first turn ends.
    AppliedMidway = "applied-midway", 125;
    /// A checkpoint begins in the middle of an entry.
    CheckpointMidway = "checkpoint-midway", 5;
    /// Recovery hands on entries that a later leader has cut off.
    OverwrittenKept = "overwritten-kept", 315;
    /// Recovery leaves the first entry that was written over where its successor belongs.
    CutTooFew = "cut-too-few", 32;
    /// Recovery cuts one entry too many from a log in which entries were written over.
    CutTooMany = "cut-too-many", 80;
    /// A restart forgets which members were removed.
    RemovedForgotten = "removed-forgotten", 13;
    /// A restart takes the term of the last entry for its own, and knows of no vote.
    HardStateLost = "hard-state-lost", 5;
    /// A leader sends no entry twice, so whoever has lost one never gets it.
    LaggardForgotten = "laggard-forgotten", 533;
    /// A leader takes entries that its log has for gone, and wants to send a snapshot.
    LogTakenForGone = "log-taken-for-gone", 2;
    /// A restart knows its term, and not whom it has voted for.
    VoteForgotten = "vote-forgotten", 5;
    /// A member answers its leader and its candidates before its log is durable.
    AnswerBeforeLog = "answer-before-log", 5;
    /// A member gives its vote in a term that it knows before the vote is in its log.
    VoteUnlogged = "vote-unlogged", 211;
    /// A restart forgets what was committed, and takes former members for the present ones.
    CommitForgotten = "commit-forgotten", 1;
    /// Each member of a cluster reads without a round, as if it were the only one.
    ClusterStaleRead = "cluster-stale-read", 1;
    /// A restart of a cluster's member knows its term and not whom it has voted for.
    ClusterVoteForgotten = "cluster-vote-forgotten", 11497;
    /// The members of a cluster answer each other before their logs are durable.
    ClusterAnswerEarly = "cluster-answer-early", 6;
    /// A leader renews leases without a round, as if nobody could have followed it.
    ClusterRenewedAlone = "cluster-renewed-alone", 11;
    /// Whoever takes itself for the leader of a cluster reads without a round.
    ClusterReadAlone = "cluster-read-alone", 34;
    /// A leader takes the acknowledgement of one member for that of another one too.
    ClusterCommitEarly = "cluster-commit-early", 0;
    /// A leader takes the acknowledgement of a learner for that of a voter.
    ClusterLearnerCounts = "cluster-learner-counts", 13;
    /// A lessor goes on revoking leases when its leadership is over.
    ClusterRevokedLate = "cluster-revoked-late", 2;
    /// A member whose removal leaves one voter stops before that one has heard of it.
    ClusterFarewellShort = "cluster-farewell-short", 653;
    /// A member that is the only voter answers before its log is durable.
    ClusterAloneUnsynced = "cluster-alone-unsynced", 2;
    /// A start finds an applied index above what is in the store of a cluster's member.
    ClusterIndexAhead = "cluster-index-ahead", 0;
    /// A start in the middle of a compaction finds a revision below the last one.
    ClusterRevisionLower = "cluster-revision-lower", 14;
    /// A checkpoint of a cluster's member is told before it is durable.
    ClusterCheckpointEarly = "cluster-checkpoint-early", 26;
    /// The new name of a snapshot's store is not durable when the log begins anew.
    ClusterPlaceUnsynced = "cluster-place-unsynced", 72;
    /// A start does not look whether the store is a snapshot that the log does not know.
    ClusterNoteIgnored = "cluster-note-ignored", 34;
    /// A member takes a snapshot while another one is being taken in.
    ClusterTwoSnapshots = "cluster-two-snapshots", 1125;
    /// A snapshot that is being made pins no revision.
    ClusterUnpinned = "cluster-unpinned", 18;
    /// A session core reads the old store when a snapshot has taken its place.
    ClusterReaderKept = "cluster-reader-kept", 4;
    /// A member that installs a snapshot keeps from its watchers what it has skipped.
    ClusterInstallSkips = "cluster-install-skips", 35;
    /// A member that installs a snapshot shows its watchers their last events again.
    ClusterInstallRepeats = "cluster-install-repeats", 35;
    /// Progress of a watch overtakes events on their way from a cluster's member.
    ClusterProgressEarly = "cluster-progress-early", 53;
    /// A watcher that is behind the store of its member loses events.
    ClusterStarved = "cluster-starved", 0;
    /// An event of a transaction with several comes twice.
    ClusterEventTwice = "cluster-event-twice", 0;
    /// A deletion to whose revision the store was compacted is not shown to watchers.
    ClusterTombstoneLost = "cluster-tombstone-lost", 83;
    /// A watch from a revision that its member has not reached is shown what is older.
    ClusterFutureIgnored = "cluster-future-ignored", 0;
    /// A watch from a revision of the past begins with what comes next.
    ClusterPastIgnored = "cluster-past-ignored", 0;
    /// A follower's transactions do not fail for a read of what is compacted.
    ClusterTxnUnread = "cluster-txn-unread", 2;
}

impl Plant {
    /// Whether the bug is one of a cluster, and the scripted peers have to find it.
    pub fn is_of_peers(self) -> bool {
        use Plant::*;
        matches!(
            self,
            OverwrittenKept
                | CutTooFew
                | CutTooMany
                | RemovedForgotten
                | LaggardForgotten
                | LogTakenForGone
                | HardStateLost
                | VoteForgotten
                | AnswerBeforeLog
                | VoteUnlogged
                | CommitForgotten
        )
    }

    /// Whether the bug is one of a cluster of real members.
    pub fn is_of_cluster(self) -> bool {
        self.name().starts_with("cluster-")
    }

    /// Whether the bug is planted within the product, and absent from an ordinary build for release.
    pub fn is_within(self) -> bool {
        use Plant::*;
        matches!(
            self,
            KeySkipped
                | AppliedMidway
                | CheckpointMidway
                | CountTooEarly
                | CountTwice
                | WatcherSkipped
                | WatcherMetTwice
                | ClusterRenewedAlone
                | ClusterRevokedLate
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::*;

    #[test]
    fn the_page_of_the_simulator_lists_them_all() {
        let page = include_str!("main.rs");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("//! | `")).collect();
        let told = |plant: &Plant| {
            format!("//! | `{}` | {} | {} |", plant.name(), plant.story().trim(), plant.seed())
        };
        assert_eq!(rows, Plant::ALL.iter().map(told).collect::<Vec<_>>());
    }

    #[test]
    fn each_is_found_by_its_seed_which_passes_without_it() {
        for &plant in Plant::ALL {
            let (seed, name) = (plant.seed(), plant.name());
            let kind = run::Kind::of(plant);
            assert!(run::world(kind, seed, Some(plant), false).is_err(), "seed {seed} does not find {name}");
            let plain = run::world(kind, seed, None, false).map_err(|failure| failure.message);
            assert!(plain.is_ok(), "seed {seed} fails by itself: {plain:?}");
        }
    }
}
