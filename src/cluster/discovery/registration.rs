//! One member's way through a discovery service, as data: what is to be asked next, by what was answered.
//!
//! ```text
//!   LogIn ──▶ Size ──▶ Members ──▶ Register ──▶ Size ──▶ Members ──▶ Watch ──▶ the founders
//!     │        │ ▲        │            │                    │          │
//!     ▼        ▼ └─ Pause ┴────────────┴────────────────────┴──────────┘
//!   refused  refused            on any failure, longer each time
//! ```
//!
//! | key of the service | value |
//! |---|---|
//! | `/_etcd/registry/TOKEN/_config/size` | how many members the cluster is to have, put there with the token |
//! | `/_etcd/registry/TOKEN/members/ID` | `name=url,name=url` of the member that has this id under the token |
//!
//! The founders are those whose keys were created first, as many as the cluster is to have. Members that come at the
//! same moment all put themselves onto the list and look once more, so all see the same order, and whoever stands too
//! far behind is refused. A member that was interrupted finds its key there and keeps its place.
//!
//! Absent on purpose: an end to the waiting. A member whose service is not there goes on asking, as etcd's does.
#![forbid(unsafe_code)]

use std::fmt;

use crate::config::InitialCluster;
use crate::stdx::time::Duration;

/// What all keys begin with.
const REGISTRY: &str = "/_etcd/registry";
/// Pauses double this many times.
const DOUBLINGS: u32 = 8;
/// Most members that a cluster is to have.
const SIZE_MAX: usize = 1000;
/// Longest text by which a member is known.
const INFO_BYTES_MAX: usize = 64 * 1024;

/// What is to be asked of the service, or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Connect, and say who asks.
    LogIn,
    /// Read the value of a key.
    Size(String),
    /// Read all keys with this prefix.
    Members(String),
    /// Put a key and a value.
    Register(String, String),
    /// Tell of all changes below a prefix, from this revision on.
    Watch(String, i64),
    /// Ask nothing for so long.
    Pause(Duration),
}

/// A key and its value, and when the key was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty for a key that was deleted.
    pub value: Vec<u8>,
    /// The revision at which the key was created.
    pub create_revision: i64,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// To [`Ask::LogIn`], [`Ask::Register`] and [`Ask::Pause`]: it is done.
    Done,
    /// To [`Ask::Size`]: the value, if the key is there.
    Value(Option<Vec<u8>>),
    /// To [`Ask::Members`]: the pairs, at this revision of the service.
    Pairs(i64, Vec<Pair>),
    /// To [`Ask::Watch`], again and again: what has changed.
    Changes(Vec<Pair>),
    /// To any: why there is no answer, or why there will be no more of them.
    Failed(String),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This is asked.
    Ask(Ask),
    /// More answers are waited for.
    Wait,
    /// The founders, in the form of `--initial-cluster`.
    Founders(String),
}

/// Why a member can't begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The service does not let the member in.
    LogIn(String),
    /// Nobody has said how many members the cluster is to have.
    NoSize,
    /// What was said of it is no number, or none that a cluster can have.
    BadSize,
    /// The cluster has its members, and this one is not among them.
    Full,
    /// What a member has said of itself is no name and no URL.
    BadUrl,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogIn(why) => why,
            Self::NoSize => "discovery: size key not found",
            Self::BadSize => "discovery: size key is bad",
            Self::Full => "discovery: cluster is full",
            Self::BadUrl => "discovery: invalid peer URL",
        })
    }
}

/// Something to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A member is on the list.
    Found { key: String, info: String },
    /// What is there is no member, or one that was found before.
    Ignored { why: &'static str, key: String, info: String },
    /// This member is on the list.
    Registered { key: String, info: String },
    /// An answer has failed; `field` names what was asked for.
    Failed { message: &'static str, field: &'static str, key: String, error: String },
    /// The next attempt comes after a pause.
    Retry { reason: &'static str, pause: Duration },
    /// Others are waited for.
    Waiting { size: usize, found: usize },
    /// Nobody is waited for any more.
    Complete { size: usize, found: usize },
}

/// What was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    LogIn,
    Size,
    Members,
    Register,
    Watch,
    /// A pause, and what it is before: the look at the list, or the place on it.
    Pause {
        registers: bool,
    },
}

/// A member on the list.
#[derive(Clone, Debug)]
struct Listed {
    key: String,
    info: String,
    create_revision: i64,
}

/// One member's way to its cluster.
#[derive(Debug)]
pub struct Registration {
    folder: String,
    key: String,
    info: String,
    phase: Phase,
    is_registered: bool,
    /// Attempts that have failed since one did not.
    retries: u32,
    size: usize,
    /// By the time at which they came. No more than are on the list at once, or as many as the cluster is to have.
    members: Vec<Listed>,
    notes: Vec<Note>,
}

impl Registration {
    /// The way of the member with this id under a token; `info` is its name and its URLs. What is asked first.
    pub fn begin(token: &str, member_id: u64, info: &str) -> (Self, Ask) {
        let folder = joined(&[REGISTRY, token]);
        let registration = Self {
            key: joined(&[&folder, "members", &format!("{member_id:x}")]),
            folder,
            info: info.to_owned(),
            phase: Phase::LogIn,
            is_registered: false,
            retries: 0,
            size: 0,
            members: Vec::new(),
            notes: Vec::new(),
        };
        (registration, Ask::LogIn)
    }

    /// What is to be logged since the last time.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Takes an answer. One to another question than the last is a failure of the service.
    ///
    /// # Errors
    /// When the member cannot begin.
    pub fn on(&mut self, told: Told) -> Result<Step, Refusal> {
        match (self.phase, told) {
            (Phase::LogIn, Told::Done) => Ok(self.look()),
            (Phase::LogIn, Told::Failed(why)) => Err(Refusal::LogIn(why)),
            (Phase::Size, Told::Value(value)) => self.on_size(value),
            (Phase::Members, Told::Pairs(revision, pairs)) => self.on_members(revision, pairs),
            (Phase::Register, Told::Done) => Ok(self.on_registered()),
            (Phase::Watch, Told::Changes(pairs)) => self.on_changes(pairs),
            (Phase::Pause { registers: true }, Told::Done) => Ok(self.register()),
            (Phase::Pause { registers: false }, Told::Done) => Ok(self.look()),
            (_, Told::Failed(why)) => Ok(self.on_failure(why)),
            (Phase::LogIn, _) => Err(Refusal::LogIn(NO_ANSWER.to_owned())),
            _ => Ok(self.on_failure(NO_ANSWER.to_owned())),
        }
    }

    fn look(&mut self) -> Step {
        self.phase = Phase::Size;
        Step::Ask(Ask::Size(self.size_key()))
    }

    fn on_size(&mut self, value: Option<Vec<u8>>) -> Result<Step, Refusal> {
        let value = value.ok_or(Refusal::NoSize)?;
        let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok());
        let size = number.and_then(|number| usize::try_from(number).ok());
        self.size = size.filter(|size| (1..=SIZE_MAX).contains(size)).ok_or(Refusal::BadSize)?;
        self.phase = Phase::Members;
        Ok(Step::Ask(Ask::Members(self.members_prefix())))
    }

    fn on_members(&mut self, revision: i64, pairs: Vec<Pair>) -> Result<Step, Refusal> {
        self.retries = 0;
        self.members.clear();
        pairs.into_iter().for_each(|pair| self.add(pair));
        // Whoever comes behind as many as the cluster is to have is none of them.
        let place = self.members.iter().take(self.size).position(|member| member.key == self.key);
        if place.is_none() && self.members.len() >= self.size {
            return Err(Refusal::Full);
        }
        if !self.is_registered {
            return Ok(self.register());
        }
        if self.members.len() >= self.size {
            return self.founders();
        }
        self.notes.push(Note::Waiting { size: self.size, found: self.members.len() });
        self.phase = Phase::Watch;
        Ok(Step::Ask(Ask::Watch(self.members_prefix(), revision.saturating_add(1))))
    }

    fn register(&mut self) -> Step {
        self.phase = Phase::Register;
        Step::Ask(Ask::Register(self.key.clone(), self.info.clone()))
    }

    fn on_registered(&mut self) -> Step {
        (self.is_registered, self.retries) = (true, 0);
        self.notes.push(Note::Registered { key: self.key.clone(), info: self.info.clone() });
        self.look()
    }

    fn on_changes(&mut self, pairs: Vec<Pair>) -> Result<Step, Refusal> {
        for pair in pairs {
            if self.members.len() < self.size {
                self.add(pair);
            }
        }
        if self.members.len() < self.size {
            return Ok(Step::Wait);
        }
        self.notes.push(Note::Complete { size: self.size, found: self.members.len() });
        self.founders()
    }

    /// Nothing that was answered before is relied upon: the next attempt begins with a look at the list.
    fn on_failure(&mut self, error: String) -> Step {
        let registers = matches!(self.phase, Phase::Register);
        let (message, field, key) = match self.phase {
            Phase::Size => {
                ("failed to get cluster size from discovery service", "clusterSizeKey", self.size_key())
            }
            Phase::Register => {
                ("failed to register members itself to the discovery service", "memberKey", self.key.clone())
            }
            _ => (
                "failed to get cluster members from discovery service",
                "membersKeyPrefix",
                self.members_prefix(),
            ),
        };
        self.notes.push(Note::Failed { message, field, key, error });
        self.retries = self.retries.saturating_add(1);
        let pause = Duration::from_secs(1 << self.retries.min(DOUBLINGS));
        let reason = if registers { "register member itself" } else { "cluster status check" };
        self.notes.push(Note::Retry { reason, pause });
        self.phase = Phase::Pause { registers };
        Step::Ask(Ask::Pause(pause))
    }

    /// Takes a member onto the list, unless it is none or is there.
    fn add(&mut self, pair: Pair) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let key = text(&pair.key);
        let is_long = pair.value.len() > INFO_BYTES_MAX;
        let info = if is_long { String::new() } else { text(&pair.value) };
        let why = if !key.starts_with(&self.members_prefix()) {
            Some("invalid peer registry key")
        } else if !info.contains('=') {
            Some("invalid peer info returned from discovery service")
        } else if self.members.iter().any(|member| member.key == key) {
            Some("found duplicate peer from discovery service")
        } else {
            None
        };
        if let Some(why) = why {
            self.notes.push(Note::Ignored { why, key, info });
            return;
        }
        self.notes.push(Note::Found { key: key.clone(), info: info.clone() });
        self.members.push(Listed { key, info, create_revision: pair.create_revision });
        self.members.sort_by_key(|member| member.create_revision);
    }

    fn founders(&self) -> Result<Step, Refusal> {
        let first: Vec<&str> =
            self.members.iter().take(self.size).map(|member| member.info.as_str()).collect();
        let founders = first.join(",");
        match InitialCluster::parse(&founders) {
            Ok(_) => Ok(Step::Founders(founders)),
            Err(_) => Err(Refusal::BadUrl),
        }
    }

    fn size_key(&self) -> String {
        format!("{}/_config/size", self.folder)
    }

    /// Without a slash at its end, as with etcd: what matters is the key of each.
    fn members_prefix(&self) -> String {
        format!("{}/members", self.folder)
    }
}

/// What is said of an answer to another question.
const NO_ANSWER: &str = "the discovery service has answered something else";

/// Parts of a path, as Go's `path.Join` joins them: without empty parts and single dots, and two dots take away the
/// part in front.
fn joined(parts: &[&str]) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in parts.iter().flat_map(|part| part.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;
    use std::collections::BTreeMap;

    const SIZE: &str = "/_etcd/registry/t/_config/size";
    const MEMBERS: &str = "/_etcd/registry/t/members";

    fn key(id: u64) -> String {
        format!("{MEMBERS}/{id:x}")
    }

    fn info(id: u64) -> String {
        format!("m{id}=http://10.0.0.{id}:2380")
    }

    fn pair(key: &str, value: &str, create_revision: i64) -> Pair {
        Pair { key: key.into(), value: value.into(), create_revision }
    }

    fn member(id: u64, create_revision: i64) -> Pair {
        pair(&key(id), &info(id), create_revision)
    }

    fn begin(id: u64) -> Registration {
        let (mut registration, first) = Registration::begin("t", id, &info(id));
        assert_eq!(first, Ask::LogIn);
        assert_eq!(registration.on(Told::Done), Ok(Step::Ask(Ask::Size(SIZE.into()))));
        registration
    }

    fn size(registration: &mut Registration, size: &str) -> Result<Step, Refusal> {
        registration.on(Told::Value(Some(size.into())))
    }

    /// A member that has put itself onto the list and looks at the list again, of a cluster of so many.
    fn registered(id: u64, of: &str) -> Registration {
        let mut registration = begin(id);
        assert_eq!(size(&mut registration, of), Ok(Step::Ask(Ask::Members(MEMBERS.into()))));
        let register = Step::Ask(Ask::Register(key(id), info(id)));
        assert_eq!(registration.on(Told::Pairs(7, vec![])), Ok(register));
        assert_eq!(registration.on(Told::Done), Ok(Step::Ask(Ask::Size(SIZE.into()))));
        assert_eq!(size(&mut registration, of), Ok(Step::Ask(Ask::Members(MEMBERS.into()))));
        registration
    }

    #[test]
    fn who_comes_last_has_the_founders_at_once() {
        let mut registration = registered(1, "2");
        let list = vec![member(1, 9), member(2, 8)];
        let founders = format!("{},{}", info(2), info(1));
        assert_eq!(registration.on(Told::Pairs(9, list)), Ok(Step::Founders(founders)));
    }

    #[test]
    fn who_comes_first_waits_for_the_others() {
        let mut registration = registered(1, "+3");
        let watch = Step::Ask(Ask::Watch(MEMBERS.into(), 10));
        assert_eq!(registration.on(Told::Pairs(9, vec![member(1, 8)])), Ok(watch));
        registration.take_notes();
        let useless = vec![member(1, 8), pair(&key(4), "", 0), pair("/x", &info(5), 11)];
        assert_eq!(registration.on(Told::Changes(useless)), Ok(Step::Wait));
        let ignored = |note: Note| match note {
            Note::Ignored { why, .. } => why,
            other => panic!("{other:?}"),
        };
        let why: Vec<_> = registration.take_notes().into_iter().map(ignored).collect();
        assert_eq!(
            why,
            [
                "found duplicate peer from discovery service",
                "invalid peer info returned from discovery service",
                "invalid peer registry key",
            ]
        );
        assert_eq!(registration.on(Told::Changes(vec![])), Ok(Step::Wait));
        let founders = format!("{},{},{}", info(1), info(2), info(3));
        let rest = vec![member(2, 12), member(3, 13), member(4, 14)];
        assert_eq!(registration.on(Told::Changes(rest)), Ok(Step::Founders(founders)));
        assert_eq!(registration.take_notes().last(), Some(&Note::Complete { size: 3, found: 3 }));
    }

    #[test]
    fn a_size_has_to_be_there_and_to_be_one() {
        for text in ["", "x", "0", "-1", " 3", "3.0", "1001", "99999999999999999999"] {
            assert_eq!(size(&mut begin(1), text), Err(Refusal::BadSize), "{text}");
        }
        assert_eq!(begin(1).on(Told::Value(Some(vec![0xff]))), Err(Refusal::BadSize));
        assert_eq!(begin(1).on(Told::Value(None)), Err(Refusal::NoSize));
    }

    #[test]
    fn a_full_cluster_takes_nobody_and_keeps_those_it_has() {
        let full = || vec![member(2, 4), member(3, 5)];
        let mut stranger = begin(1);
        size(&mut stranger, "2").unwrap();
        assert_eq!(stranger.on(Told::Pairs(5, full())), Err(Refusal::Full));
        // A member that was interrupted registers again, at the place that it had.
        let mut again = begin(3);
        size(&mut again, "2").unwrap();
        assert_eq!(again.on(Told::Pairs(5, full())), Ok(Step::Ask(Ask::Register(key(3), info(3)))));
        // Three have come at once, and the last one of them sees so when it looks again.
        let mut late = registered(4, "2");
        let three = [full(), vec![member(4, 6)]].concat();
        assert_eq!(late.on(Told::Pairs(6, three.clone())), Err(Refusal::Full));
        let mut early = registered(3, "2");
        let founders = format!("{},{}", info(2), info(3));
        assert_eq!(early.on(Told::Pairs(6, three)), Ok(Step::Founders(founders)));
    }

    #[test]
    fn what_fails_is_tried_again_after_longer_and_longer_pauses() {
        let mut registration = begin(1);
        let fail = |registration: &mut Registration| match registration.on(Told::Failed("gone".into())) {
            Ok(Step::Ask(Ask::Pause(pause))) => pause.as_secs(),
            other => panic!("{other:?}"),
        };
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 256] {
            assert_eq!(fail(&mut registration), seconds);
            assert_eq!(registration.on(Told::Done), Ok(Step::Ask(Ask::Size(SIZE.into()))));
        }
        size(&mut registration, "2").unwrap();
        assert_eq!(fail(&mut registration), 256);
        registration.on(Told::Done).unwrap();
        size(&mut registration, "2").unwrap();
        // A list that was read ends the row of failures, and the put is tried by itself.
        registration.on(Told::Pairs(1, vec![])).unwrap();
        assert_eq!(fail(&mut registration), 2);
        assert_eq!(registration.on(Told::Done), Ok(Step::Ask(Ask::Register(key(1), info(1)))));
        registration.on(Told::Done).unwrap();
        size(&mut registration, "2").unwrap();
        registration.on(Told::Pairs(2, vec![member(1, 2)])).unwrap();
        // A watch that ends is followed by a new look.
        assert_eq!(fail(&mut registration), 2);
        assert_eq!(registration.on(Told::Done), Ok(Step::Ask(Ask::Size(SIZE.into()))));
    }

    #[test]
    fn a_service_that_lets_nobody_in_is_not_asked_again() {
        let begun = || Registration::begin("t", 1, "a=http://b:1").0;
        assert_eq!(begun().on(Told::Failed("no".into())), Err(Refusal::LogIn("no".into())));
        assert_eq!(begun().on(Told::Value(None)), Err(Refusal::LogIn(NO_ANSWER.into())));
        assert!(matches!(begin(1).on(Told::Done), Ok(Step::Ask(Ask::Pause(_)))));
    }

    #[test]
    fn what_a_member_says_of_itself_is_not_trusted() {
        let mut registration = registered(1, "2");
        let list = vec![member(1, 1), pair(&key(2), "b=nonsense", 2)];
        assert_eq!(registration.on(Told::Pairs(2, list)), Err(Refusal::BadUrl));
        let mut registration = registered(1, "2");
        let long = format!("b={}", "x".repeat(INFO_BYTES_MAX));
        let list = vec![member(1, 1), pair(&key(2), &long, 2)];
        let watch = Step::Ask(Ask::Watch(MEMBERS.into(), 3));
        assert_eq!(registration.on(Told::Pairs(2, list)), Ok(watch), "it counts for nobody");
    }

    #[test]
    fn paths_are_joined_as_by_go() {
        for (token, expected) in [
            ("t", "/_etcd/registry/t"),
            ("/t/", "/_etcd/registry/t"),
            ("a//b/./c", "/_etcd/registry/a/b/c"),
            ("../x", "/_etcd/x"),
            ("../../../..", "/"),
        ] {
            assert_eq!(joined(&[REGISTRY, token]), expected, "{token}");
        }
    }

    /// A service: keys with values and the revisions at which they were created, and all puts in their order.
    #[derive(Default)]
    struct Service {
        revision: i64,
        keys: BTreeMap<String, (String, i64)>,
        puts: Vec<(i64, Pair)>,
    }

    impl Service {
        fn put(&mut self, key: &str, value: &str) {
            self.revision += 1;
            let entry = self.keys.entry(key.to_owned()).or_insert((String::new(), self.revision));
            entry.0 = value.to_owned();
            self.puts.push((self.revision, pair(key, value, entry.1)));
        }

        fn answer(&mut self, ask: &Ask) -> Told {
            match ask {
                Ask::LogIn | Ask::Pause(_) => Told::Done,
                Ask::Size(key) => Told::Value(self.keys.get(key).map(|(value, _)| value.clone().into())),
                Ask::Members(prefix) => {
                    let below = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
                    let pairs = below.map(|(key, (value, created))| pair(key, value, *created)).collect();
                    Told::Pairs(self.revision, pairs)
                }
                Ask::Register(key, value) => {
                    self.put(key, value);
                    Told::Done
                }
                Ask::Watch(prefix, from) => {
                    let is_meant =
                        |(at, pair): &&(i64, Pair)| at >= from && pair.key.starts_with(prefix.as_bytes());
                    Told::Changes(self.puts.iter().filter(is_meant).map(|(_, pair)| pair.clone()).collect())
                }
            }
        }
    }

    /// Members that take their steps in any order, with failures in between and with more members than there is room
    /// for: as many begin as the cluster is to have, all with the same founders, and the others are refused.
    #[test]
    fn in_whatever_order_members_come_all_that_begin_have_the_same_founders() {
        for seed in 0..500 {
            let mut prng = Prng::new(seed);
            let size = 1 + prng.below(4);
            let count = size + prng.below(3);
            let mut service = Service::default();
            service.put(SIZE, &size.to_string());
            let mut running: Vec<_> = (1..=count)
                .map(|id| (id, Registration::begin("t", id, &info(id))))
                .map(|(id, (registration, ask))| (id, registration, ask))
                .collect();
            let (mut founders, mut refused) = (Vec::new(), Vec::new());
            for turn in 0.. {
                assert!(turn < 10_000, "seed {seed}: {} members wait for ever", running.len());
                if running.is_empty() {
                    break;
                }
                let at = prng.below(running.len() as u64) as usize;
                let (id, registration, ask) = &mut running[at];
                let fails = *ask != Ask::LogIn && prng.chance(1, 8);
                // An answer that is lost may be one to a put that was made.
                let told = service.answer(ask);
                let told = if fails { Told::Failed("lost".into()) } else { told };
                match registration.on(told) {
                    Ok(Step::Ask(next)) => *ask = next,
                    Ok(Step::Wait) => {}
                    Ok(Step::Founders(text)) => {
                        founders.push(text);
                        running.swap_remove(at);
                    }
                    Err(why) => {
                        assert_eq!(why, Refusal::Full, "seed {seed}");
                        refused.push(*id);
                        running.swap_remove(at);
                    }
                }
            }
            assert_eq!((founders.len() as u64, refused.len() as u64), (size, count - size), "seed {seed}");
            founders.dedup();
            assert_eq!(founders.len(), 1, "seed {seed}: {founders:?}");
            assert!(refused.iter().all(|id| !founders[0].contains(&info(*id))), "seed {seed}");
        }
    }
}
