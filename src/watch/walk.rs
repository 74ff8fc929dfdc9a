//! Walks over the watchers of a key, in pieces.
//!
//! ```text
//!   group of the key ──▶ range ──▶ range ──▶ ...      each with a list of watchers:  4 ─▶ 9 ─▶ 2
//!                          ▲                                                             ▲
//!                          └ group ─────────────────── a place ──────────────── number ──┘
//! ```
//!
//! A [`Walk`] may stop anywhere and go on later, so that an event that very many want is matched in pieces. Watchers
//! come and go meanwhile. Who leaves a list moves the places that point to it on to the next. Who joins a list does so
//! at its head, behind which every place on it is. The group of a place stays, even if nobody is left in it, so that
//! the tree of ranges can be entered behind it. Whoever is on a list from the beginning of a walk to its end is so met
//! exactly once; whoever joins meanwhile is met at most once.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use slab::Slab;

use super::key_index::{KeyIndex, Kind, List};
use super::scans::SCANS_MAX;
use super::watcher::{NIL, Watcher};

/// On whose behalf the watchers of a key are looked for; each has one key at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// What was published, for the synced watchers.
    Live,
    /// What a scan reads, for the riders of all scans.
    Scan(u8),
}

impl Walk {
    fn list(self) -> List {
        match self {
            Walk::Live => List::Synced,
            Walk::Scan(_) => List::Riding,
        }
    }

    fn slot(self) -> usize {
        match self {
            Walk::Live => 0,
            Walk::Scan(scan) => 1 + usize::from(scan),
        }
    }
}

/// Where a walk has stopped.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// The group whose list is at hand; [`NIL`] if no walk has stopped. Counts as one of the group's watchers.
    group: u32,
    /// The next watcher on that list; [`NIL`] at its end.
    number: u32,
}

impl Position {
    const NONE: Self = Self { group: NIL, number: NIL };
}

/// Where each walk has stopped.
#[derive(Debug)]
pub(super) struct Positions([Position; 1 + SCANS_MAX]);

impl Default for Positions {
    fn default() -> Self {
        Self([Position::NONE; 1 + SCANS_MAX])
    }
}

impl Positions {
    /// A watcher leaves the list that it is on, and `after` follows it there.
    pub(super) fn move_on(&mut self, number: u32, after: u32) {
        for place in self.0.iter_mut().filter(|place| place.number == number) {
            place.number = after;
        }
    }

    fn take(&mut self, walk: Walk) -> Position {
        std::mem::replace(&mut self.0[walk.slot()], Position::NONE)
    }

    /// The places of walks that have stopped.
    fn taken(&self) -> impl Iterator<Item = Position> {
        self.0.iter().copied().filter(|place| place.group != NIL)
    }
}

impl KeyIndex {
    /// Calls `each` with the watchers on the walk's list whose bounds contain `key`, from where the walk has stopped:
    /// with all that are left, which is true then, or with as many as there are `looks`, which are counted down.
    pub(super) fn walk(
        &mut self,
        walk: Walk,
        key: &[u8],
        looks: &mut usize,
        watchers: &Slab<Watcher>,
        each: impl FnMut(u32, &Watcher),
    ) -> bool {
        let from = self.places.take(walk);
        let stopped = self.walk_from(from, walk.list(), key, looks, watchers, each);
        if let ControlFlow::Break(place) = stopped {
            self.hold(place.group);
            self.places.0[walk.slot()] = place;
        }
        if from.group != NIL {
            self.leave(from.group);
        }
        stopped.is_continue()
    }

    fn walk_from(
        &self,
        from: Position,
        list: List,
        key: &[u8],
        looks: &mut usize,
        watchers: &Slab<Watcher>,
        mut each: impl FnMut(u32, &Watcher),
    ) -> ControlFlow<Position> {
        let mut rest_of = |group: u32, mut number: u32| {
            loop {
                // The end of a list counts as well: there may be very many groups with nobody on this list.
                if *looks == 0 {
                    return ControlFlow::Break(Position { group, number });
                }
                *looks -= 1;
                if number == NIL {
                    return ControlFlow::Continue(());
                }
                let watcher = &watchers[number as usize];
                each(number, watcher);
                number = watcher.after;
            }
        };
        let mut after = None;
        if from.group != NIL {
            rest_of(from.group, from.number)?;
            after = Some(from.group).filter(|&group| self.kind(group) != Kind::Key);
        } else if let Some(group) = self.group_of_key(key) {
            rest_of(group, self.head(group, list))?;
        }
        self.stab(key, after, &mut |group| rest_of(group, self.head(group, list)))
    }

    /// Whether the walk has stopped in the middle of an event.
    pub(super) fn is_amid(&self, walk: Walk) -> bool {
        self.places.0[walk.slot()].group != NIL
    }

    #[cfg(test)]
    pub(super) fn is_amid_any(&self) -> bool {
        self.places.taken().next().is_some()
    }

    /// Gives up a walk: the next one begins anew.
    pub(super) fn give_up(&mut self, walk: Walk) {
        let place = self.places.take(walk);
        if place.group != NIL {
            self.leave(place.group);
        }
    }

    /// Checks what must hold between calls.
    pub(super) fn check(&self, watchers: &Slab<Watcher>) {
        for place in self.places.taken().filter(|place| place.number != NIL) {
            let watcher = watchers.get(place.number as usize);
            assert!(
                watcher.is_some_and(|w| w.group == place.group),
                "a walk goes on with a watcher of its group"
            );
        }
        self.check_groups(watchers, self.places.taken().map(|place| place.group));
    }
}

/// What a broken hub would do between two pieces of an event: for the simulator, which has to find it.
#[cfg(any(debug_assertions, feature = "faults"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkFault {
    /// The walk goes on one watcher too far.
    Skips,
    /// The walk goes on at the head of the list.
    Repeats,
}

#[cfg(any(debug_assertions, feature = "faults"))]
impl KeyIndex {
    /// Commits a fault at every place.
    pub(super) fn spoil(&mut self, fault: WalkFault, watchers: &Slab<Watcher>) {
        for walk in std::iter::once(Walk::Live).chain((0..SCANS_MAX as u8).map(Walk::Scan)) {
            let Position { group, number } = self.places.0[walk.slot()];
            if group == NIL {
                continue;
            }
            self.places.0[walk.slot()].number = match fault {
                WalkFault::Skips => watchers.get(number as usize).map_or(NIL, |watcher| watcher.after),
                WalkFault::Repeats => self.head(group, walk.list()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::watcher::{Flags, State};
    use crate::stdx::prng::Prng;
    use std::collections::BTreeMap;

    /// The bounds of watchers, and whether they contain `b`.
    const BOUNDS: [(&[u8], &[u8], bool); 9] = [
        (b"b", b"", true),
        (b"b", b"c", true),
        (b"a", b"c", true),
        (b"a", b"b", false),
        (b"a", b"\0", true),
        (b"b", b"\0", true),
        (b"c", b"d", false),
        (b"b\0", b"c", false),
        (b"a", b"bb", true),
    ];
    const WALKS: [Walk; 3] = [Walk::Live, Walk::Scan(0), Walk::Scan(3)];

    /// What a naive list knows of a watcher.
    struct Known {
        list: List,
        contains: bool,
        /// How often each walk has met it since the walk began or the watcher joined; none if it joined later.
        met: [(u32, bool); WALKS.len()],
    }

    struct Model {
        prng: Prng,
        index: KeyIndex,
        watchers: Slab<Watcher>,
        known: BTreeMap<u32, Known>,
    }

    impl Model {
        fn join(&mut self) {
            let (key, end, contains) = BOUNDS[self.prng.below(BOUNDS.len() as u64) as usize];
            let list = if self.prng.chance(1, 2) { List::Synced } else { List::Riding };
            let group = self.index.enter(key, end);
            let number = self.watchers.insert(Watcher {
                id: 0,
                next: 0,
                stream: 0,
                group,
                before: NIL,
                after: NIL,
                state: State::Synced,
                flags: Flags::default(),
            }) as u32;
            self.index.link(list, number, &mut self.watchers);
            self.known.insert(number, Known { list, contains, met: [(0, false); WALKS.len()] });
        }

        /// A watcher leaves its list, for good or for the other list.
        fn leave(&mut self) {
            let at = self.prng.below(self.known.len().max(1) as u64) as usize;
            let Some((&number, known)) = self.known.iter_mut().nth(at) else { return };
            self.index.unlink(known.list, number, &mut self.watchers);
            if self.prng.chance(1, 2) {
                known.list = if known.list == List::Synced { List::Riding } else { List::Synced };
                known.met = [(0, false); WALKS.len()];
                self.index.link(known.list, number, &mut self.watchers);
            } else {
                self.known.remove(&number);
                let group = self.watchers.remove(number as usize).group;
                self.index.leave(group);
            }
        }

        fn begin(&mut self, walk: usize) {
            self.known.values_mut().for_each(|known| known.met[walk] = (0, true));
        }

        /// A piece of a walk; true if it was the last.
        fn go_on(&mut self, walk: usize) -> bool {
            let Self { prng, index, watchers, known, .. } = self;
            let most = 1 + prng.below(4) as usize;
            let (mut looks, mut met) = (most, 0);
            let is_over = index.walk(WALKS[walk], b"b", &mut looks, watchers, |number, _| {
                let known = known.get_mut(&number).expect("a watcher that is there");
                assert!(known.contains && known.list == WALKS[walk].list(), "a watcher of this list and key");
                known.met[walk].0 += 1;
                assert_eq!(known.met[walk].0, 1, "nobody is met twice");
                met += 1;
            });
            assert!(met <= most - looks && (is_over || looks == 0), "as many looks as were allowed");
            assert_eq!(is_over, !index.is_amid(WALKS[walk]));
            is_over
        }

        fn end(&mut self, walk: usize) {
            for (number, known) in &self.known {
                let wanted = known.contains && known.list == WALKS[walk].list() && known.met[walk].1;
                assert!(!wanted || known.met[walk].0 == 1, "{number} was there all the time");
            }
        }
    }

    #[test]
    fn a_walk_in_pieces_meets_everybody_who_stays_and_nobody_twice() {
        let mut pieces = 0;
        for seed in 0..100 {
            let mut model = Model {
                prng: Prng::new(seed),
                index: KeyIndex::new(seed),
                watchers: Slab::new(),
                known: BTreeMap::new(),
            };
            let mut under_way = [false; WALKS.len()];
            for _ in 0..600 {
                let walk = model.prng.below(WALKS.len() as u64) as usize;
                match model.prng.below(8) {
                    0..3 if model.known.len() < 30 => model.join(),
                    0..4 => model.leave(),
                    4 if model.prng.chance(1, 8) => {
                        model.index.give_up(WALKS[walk]);
                        under_way[walk] = false;
                    }
                    _ => {
                        if !std::mem::replace(&mut under_way[walk], true) {
                            model.begin(walk);
                        }
                        pieces += 1;
                        if model.go_on(walk) {
                            model.end(walk);
                            under_way[walk] = false;
                        }
                    }
                }
                model.index.check(&model.watchers);
            }
        }
        assert!(pieces > 20_000, "{pieces} pieces");
    }
}
