//! Simulated worlds: one member or a cluster, hostile disks and networks, a virtual clock, and judges who know every
//! answer.
//!
//! ```text
//!   cargo run --release --bin sim -- --seeds 100000        many worlds, on all cores
//!   cargo run --release --bin sim -- --seed 4711           one world, with its last events if it fails
//!   cargo run --release --bin sim -- --plant early-sync    does the judge find it?
//! ```
//!
//! A seed is a world: how many session cores and clients, how fast the disk, how long the lanes, what is asked, how
//! large answers, slices, fragments, pieces and quota are, when the process dies and what the disk keeps. The member in
//! it is the one of the server: [`Replica`] behind its port, store, log, tickets, pins and [`Hub`]s; only clock,
//! disk, lanes and clients are made up. In some turns the member's bounds are tiny, so that what is rare happens
//! often ([`params`]). Each seed runs twice and must leave the same trace, which finds a stray clock or an unordered
//! map without any lint.
//!
//! ```text
//!   clients ── lanes ──▶ Replica ──▶ AppendWal ──▶ Disk          the judge reads the log on its way to the disk,
//!      ▲                    │                       │            replays it on the Model, and compares replies,
//!      │   hubs, readers ◀── Publish, Reply          └─ crash ─▶  reads, watch streams, leases, and what is left
//!      └─────── judged ─────┘                                    after each crash
//! ```
//!
//! What is judged:
//! - every reply is the one the log order gives, durable before it is sent, and after everything acknowledged before
//!   it was asked; what was refused is not in the log, and nobody waits in vain for what is done;
//! - each request is answered once; of one whose client has gone nothing is left, neither in the replica nor in a hub;
//! - every snapshot is the state after exactly the entry it claims, and a linearizable read misses nothing;
//! - every answer that takes legs, a list, a stream or a hash, is the one of the revision at its arrival to the byte,
//!   whatever was written, compacted and swept between two legs; no sweep passes a pin ([`reading`]);
//! - every watch stream is a slice of history: complete, ordered, unique, whole revisions, right previous values,
//!   resumable, in fragments no longer than asked for, also where a lane has lost a batch; no progress is promised too
//!   early, and none is refused when all is quiet;
//! - no lease expires early, none stays late, none comes back; a restart knows what a checkpoint has left of it;
//! - alarms refuse what they should until they are cleared, through restarts; a store beyond its quota raises one, and
//!   no other does ([`quota`]);
//! - after a crash the log has all that was acknowledged, and the store nothing else; HashKV is etcd's number;
//! - segments are prepared, named, used again and deleted in steps that a crash may lose or reorder ([`log_disk`]),
//!   also on a disk that is full for a while ([`segments`]); none goes before the log says that the store has its
//!   entries;
//! - where bytes rotted, the member stops or serves what is right;
//! - at the end everything old is compacted, and the store gets about as small as what lives in it ([`closing`]); no
//!   garbage stays, and no table remembers a request.
//!
//! The judge shares no code with the member but the generated messages: [`log`] parses the log, [`model`] executes
//! it, [`check_watch`] and [`check_lease`] know what may be seen. That it can fail is shown by planted bugs
//! ([`plant`], switched on in [`spoil`]); each names a seed that finds it:
//!
//! | plant | what is wrong | seed |
//! |---|---|---|
//! | `skipped-sync` | A sync of the log says it is done and does nothing. | 5 |
//! | `early-sync` | The end of a log write is reported before it has come. | 0 |
//! | `applied-behind` | The store claims an index one below what its trees contain, so an entry is applied twice. | 8 |
//! | `applied-ahead` | The store claims an index one above what its trees contain, so an entry is left out. | 15 |
//! | `tail-not-zeroed` | What a torn write left behind the end of the log stays there. | 342 |
//! | `last-record-dropped` | Recovery takes the last whole record for torn. | 1 |
//! | `early-checkpoint` | A checkpoint is reported durable before it is, so log and pages go too early. | 3269 |
//! | `skipped-store-sync` | A sync of the store file does nothing. | 8 |
//! | `meta-before-pages` | The meta page of a checkpoint is written before the pages that it names are durable. | 10 |
//! | `released-too-much` | The log loses one segment more than the replica released. | 1 |
//! | `deleted-early` | Segments are deleted as soon as a checkpoint of their entries has begun. | 206 |
//! | `name-not-synced` | The name of a new segment is not made durable before the log counts on the segment. | 5 |
//! | `start-names-unsynced` | A start does not make durable what the segments are called. | 342 |
//! | `recycled-unzeroed` | A segment that is used again is not filled with zeros before. | 29 |
//! | `full-for-ever` | A disk that was full once is full for ever. | 4 |
//! | `compaction-eats-live` | A compaction takes a pair that is still to be read. | 8 |
//! | `stale-read` | A linearizable read asks nobody: after a restart it shows the last checkpoint. | 300 |
//! | `lost-on-catch-up` | A response with events is lost on its way to somebody who catches up. | 10 |
//! | `doubled-event` | A response with events comes twice. | 10 |
//! | `progress-overtakes` | Progress overtakes events on their way. | 10 |
//! | `lease-revived` | A restart brings back a lease that was revoked. | 40 |
//! | `fast-clock` | The member's clock is a fifth too fast, so leases expire early. | 6 |
//! | `pin-too-high` | A long answer pins the revision above the one that it reads. | 10 |
//! | `pin-forgotten` | A pin is not always given back. | 0 |
//! | `hash-unpinned` | A HashKV pins the revision up to which it digests, and not the compaction below it. | 155 |
//! | `list-replanned` | A list is planned anew when its revision is pinned, on what has been written meanwhile. | 76 |
//! | `stream-chunk-lost` | A message of a RangeStream is lost. | 78 |
//! | `stream-repeats` | A message of a RangeStream begins with the last pair of the one before. | 78 |
//! | `snapshot-kept` | A core keeps a snapshot for ever, and with it every page that was freed since. | 11 |
//! | `checkpoint-untold` | The end of a checkpoint is not told, so pages that it has freed are held for ever. | 319 |
//! | `digest-lost` | The hash of a compaction is lost, so its garbage waits for ever. | 0 |
//! | `fragment-lost` | A fragment of a watch response is lost. | 97 |
//! | `fragment-cut` | A fragment of a watch response lacks its last event. | 97 |
//! | `event-between-parts` | A response that is sent in parts lacks an event where one part ends. | 38 |
//! | `last-fragment-marked` | The last fragment of a watch response is marked as if more followed. | 10 |
//! | `progress-amid-parts` | Progress is promised while parts of a response are still owed. | 38 |
//! | `room-untold` | A stream that was full is not told that it has room again. | 56 |
//! | `prev-lost` | An event lacks its previous value. | 0 |
//! | `watcher-skipped` | An event that was suspended goes on one watcher too far behind the last one it met. | 3 |
//! | `watcher-met-twice` | An event that was suspended goes on with watchers whom it has met. | 3 |
//! | `gap-unseen` | A lane puts an empty batch in the place of one that it has lost. | 29 |
//! | `batches-swapped` | The events of two writes are published in the wrong order. | 1 |
//! | `reply-overtakes` | An answer leaves before the events of its write. | 0 |
//! | `count-too-early` | A count of leaves is used for revisions older than the newest in them. | 253 |
//! | `count-twice` | A key whose revisions span two leaves is counted in both. | 1987 |
//! | `alarm-forgotten` | A restart forgets which alarms are raised. | 23 |
//! | `alarm-revived` | A restart brings back an alarm that was cleared. | 647 |
//! | `quota-ignored` | The member does not look at its quota. | 106 |
//! | `quota-kept` | A quota that was raised at a restart stays what it was. | 206 |
//! | `remaining-forgotten` | A restart forgets what a checkpoint has left of a lease. | 1591 |
//! | `ticket-reused` | A reply that comes too late answers whoever has its slot by then. | 11 |
//! | `reply-lost` | A reply is lost between the cores. | 6 |
//! | `forgotten-kept` | What waits for a client that has gone keeps its room. | 1 |
//! | `another-forgotten` | With a client that has gone, work of another client is forgotten. | 1 |
//! | `stream-kept` | The watches of a client that has gone stay. | 1 |
//! | `refused-and-done` | What a full lane refuses goes through all the same. | 5 |
//! | `key-skipped` | A deletion that was suspended goes on one key too far behind the last one that it deleted. | 4 |
//! | `applied-midway` | An entry counts as applied, and is published, when its first turn ends. | 125 |
//! | `checkpoint-midway` | A checkpoint begins in the middle of an entry. | 5 |
//! | `overwritten-kept` | Recovery hands on entries that a later leader has cut off. | 315 |
//! | `cut-too-few` | Recovery leaves the first entry that was written over where its successor belongs. | 32 |
//! | `cut-too-many` | Recovery cuts one entry too many from a log in which entries were written over. | 80 |
//! | `removed-forgotten` | A restart forgets which members were removed. | 13 |
//! | `hard-state-lost` | A restart takes the term of the last entry for its own, and knows of no vote. | 5 |
//! | `laggard-forgotten` | A leader sends no entry twice, so whoever has lost one never gets it. | 533 |
//! | `log-taken-for-gone` | A leader takes entries that its log has for gone, and wants to send a snapshot. | 2 |
//! | `vote-forgotten` | A restart knows its term, and not whom it has voted for. | 5 |
//! | `answer-before-log` | A member answers its leader and its candidates before its log is durable. | 5 |
//! | `vote-unlogged` | A member gives its vote in a term that it knows before the vote is in its log. | 211 |
//! | `commit-forgotten` | A restart forgets what was committed, and takes former members for the present ones. | 1 |
//! | `cluster-stale-read` | Each member of a cluster reads without a round, as if it were the only one. | 1 |
//! | `cluster-vote-forgotten` | A restart of a cluster's member knows its term and not whom it has voted for. | 11497 |
//! | `cluster-answer-early` | The members of a cluster answer each other before their logs are durable. | 6 |
//! | `cluster-renewed-alone` | A leader renews leases without a round, as if nobody could have followed it. | 11 |
//! | `cluster-read-alone` | Whoever takes itself for the leader of a cluster reads without a round. | 34 |
//! | `cluster-commit-early` | A leader takes the acknowledgement of one member for that of another one too. | 0 |
//! | `cluster-learner-counts` | A leader takes the acknowledgement of a learner for that of a voter. | 13 |
//! | `cluster-revoked-late` | A lessor goes on revoking leases when its leadership is over. | 2 |
//! | `cluster-farewell-short` | A member whose removal leaves one voter stops before that one has heard of it. | 653 |
//! | `cluster-alone-unsynced` | A member that is the only voter answers before its log is durable. | 2 |
//! | `cluster-index-ahead` | A start finds an applied index above what is in the store of a cluster's member. | 0 |
//! | `cluster-revision-lower` | A start in the middle of a compaction finds a revision below the last one. | 14 |
//! | `cluster-checkpoint-early` | A checkpoint of a cluster's member is told before it is durable. | 26 |
//! | `cluster-place-unsynced` | The new name of a snapshot's store is not durable when the log begins anew. | 72 |
//! | `cluster-note-ignored` | A start does not look whether the store is a snapshot that the log does not know. | 34 |
//! | `cluster-two-snapshots` | A member takes a snapshot while another one is being taken in. | 1125 |
//! | `cluster-unpinned` | A snapshot that is being made pins no revision. | 18 |
//! | `cluster-reader-kept` | A session core reads the old store when a snapshot has taken its place. | 4 |
//! | `cluster-install-skips` | A member that installs a snapshot keeps from its watchers what it has skipped. | 35 |
//! | `cluster-install-repeats` | A member that installs a snapshot shows its watchers their last events again. | 35 |
//! | `cluster-progress-early` | Progress of a watch overtakes events on their way from a cluster's member. | 53 |
//! | `cluster-starved` | A watcher that is behind the store of its member loses events. | 0 |
//! | `cluster-event-twice` | An event of a transaction with several comes twice. | 0 |
//! | `cluster-tombstone-lost` | A deletion to whose revision the store was compacted is not shown to watchers. | 83 |
//! | `cluster-future-ignored` | A watch from a revision that its member has not reached is shown what is older. | 0 |
//! | `cluster-past-ignored` | A watch from a revision of the past begins with what comes next. | 0 |
//! | `cluster-txn-unread` | A follower's transactions do not fail for a read of what is compacted. | 2 |
//!
//! A second, smaller world ([`peers`]) has several members, of which the script plays all but one: `--world peers`.
//! A third one ([`cluster`]) has up to seven real members on a network that fails: `--world cluster`.
//! Every eighth seed of the ordinary run is also one of that world.
//!
//! A few bugs are planted within the product, where no seam of the world reaches: in builds with debug assertions, or
//! with the feature `faults`.
//!
//! Absent: the network, real other members, TLS, HTTP/2, glommio, and the mapping of the store file (pages are read
//! one by one). Start reading at [`world`].
//!
//! ```text
//!   world, run, params          a world and its events; worlds by the thousand; what differs from seed to seed
//!   member, process             the member as a start makes it; its log writes, checkpoints, crashes and starts
//!   session, outlets, watching  session cores; what their streams hold; watch streams
//!   reading, legs               reads, and answers that take legs
//!   client, workload            a client and what it waits for; what clients ask
//!   leaving, asked              clients that go away; what the replica was asked and has not answered
//!   disk                        what a crash leaves of what was written
//!   judge, log, model           the one right answer: from the log, by a plain model of the store;
//!   model_hash                  and its hashes
//!   check_watch, check_lease    what watchers and leases may show
//!   quota, closing, ending      when the alarm is due; the drill of a full store; what is left at the end
//!   plant, spoil, trace         the planted bugs; what has happened, for two runs to compare
//!   shrink                      a failing world made smaller
//!   peers, cluster              the worlds with several members
//! ```
//!
//! [`Replica`]: kevel::replica::Replica
//! [`Hub`]: kevel::watch::Hub
#![forbid(unsafe_code)]

mod asked;
mod check_lease;
mod check_watch;
mod client;
mod closing;
mod cluster;
mod disk;
mod ending;
mod judge;
mod leaving;
mod legs;
mod log;
mod log_disk;
mod member;
mod model;
mod model_hash;
mod outlets;
mod params;
mod peers;
mod plant;
mod process;
mod quota;
mod reading;
mod run;
mod segments;
mod session;
mod shrink;
mod spoil;
mod trace;
mod watching;
mod workload;
mod world;

fn main() -> std::process::ExitCode {
    run::main(std::env::args().skip(1))
}
