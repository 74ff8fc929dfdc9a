//! Feature gates: named switches for what etcd calls alpha and beta.
#![forbid(unsafe_code)]

use super::go;

/// How far etcd vouches for a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless asked otherwise.
    Beta,
}

impl Stage {
    /// The label value in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

/// One gate.
struct Gate {
    name: &'static str,
    stage: Stage,
}

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";
const COMPACT_HASH_CHECK: &str = "CompactHashCheck";
const INITIAL_CORRUPT_CHECK: &str = "InitialCorruptCheck";
const CHECKPOINT: &str = "LeaseCheckpoint";
const CHECKPOINT_PERSIST: &str = "LeaseCheckpointPersist";
const MEMBER_LOCAL_ADDR: &str = "SetMemberLocalAddr";

const fn gate(name: &'static str, stage: Stage) -> Gate {
    Gate { name, stage }
}

/// All gates of etcd 3.7, in the order of their names.
static GATES: [Gate; 11] = [
    gate(ALL_ALPHA, Stage::Alpha),
    gate(ALL_BETA, Stage::Beta),
    gate(COMPACT_HASH_CHECK, Stage::Alpha),
    gate("FastLeaseKeepAlive", Stage::Beta),
    gate(INITIAL_CORRUPT_CHECK, Stage::Alpha),
    gate(CHECKPOINT, Stage::Alpha),
    gate(CHECKPOINT_PERSIST, Stage::Alpha),
    gate("PriorityRequest", Stage::Alpha),
    gate(MEMBER_LOCAL_ADDR, Stage::Alpha),
    gate("StopGRPCServiceOnDefrag", Stage::Alpha),
    gate("TxnModeWriteWithSharedBuffer", Stage::Beta),
];

/// The position of every gate's switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gates {
    on: [bool; GATES.len()],
}

impl Default for Gates {
    fn default() -> Self {
        Gates { on: std::array::from_fn(|at| GATES[at].stage == Stage::Beta && GATES[at].name != ALL_BETA) }
    }
}

impl Gates {
    /// Reads `Name=true,Other=false`; a group switch moves the gates of its stage that are not named themselves.
    pub fn parse(text: &str) -> Result<Gates, String> {
        let mut named: Vec<(usize, bool)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("missing bool value for feature gate {part}"))?;
            let (name, value) = (name.trim(), value.trim());
            let value = go::parse_bool(value).map_err(|_| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
            })?;
            let at = GATES.iter().position(|gate| gate.name == name);
            named.push((at.ok_or_else(|| format!("unrecognized feature gate: {name}"))?, value));
        }
        let mut gates = Gates::default();
        for (group, stage) in [(ALL_ALPHA, Stage::Alpha), (ALL_BETA, Stage::Beta)] {
            if let Some((_, value)) = named.iter().rev().find(|(at, _)| GATES[*at].name == group) {
                for (at, gate) in GATES.iter().enumerate().filter(|(_, gate)| gate.stage == stage) {
                    gates.on[at] =
                        if gate.name == ALL_ALPHA || gate.name == ALL_BETA { gates.on[at] } else { *value };
                }
            }
        }
        named.into_iter().for_each(|(at, value)| gates.on[at] = value);
        Ok(gates)
    }

    /// Whether a gate is open. The name must be one of etcd's.
    pub fn enabled(&self, name: &str) -> bool {
        let at = GATES.iter().position(|gate| gate.name == name);
        at.is_some_and(|at| self.on[at])
    }

    /// Whether a member compares its data with the others' before it serves.
    pub fn checks_initially(&self) -> bool {
        self.enabled(INITIAL_CORRUPT_CHECK)
    }

    /// Whether a leader compares the hashes of compactions.
    pub fn checks_compactions(&self) -> bool {
        self.enabled(COMPACT_HASH_CHECK)
    }

    /// Whether a member calls the others from an address that it advertises.
    pub fn sets_local_address(&self) -> bool {
        self.enabled(MEMBER_LOCAL_ADDR)
    }

    /// What speaks against this combination.
    pub fn check(&self) -> Result<(), String> {
        if self.enabled(CHECKPOINT_PERSIST) && !self.enabled(CHECKPOINT) {
            return Err(format!(
                "enabling feature gate {CHECKPOINT_PERSIST} requires enabling feature gate {CHECKPOINT}"
            ));
        }
        Ok(())
    }

    /// The gates that were moved from where they are by default, and that switch nothing in this version: lease
    /// checkpoints are applied, and none are sent.
    pub fn moved_in_vain(&self) -> impl Iterator<Item = (&'static str, bool)> + '_ {
        const WORKING: [&str; 3] = [COMPACT_HASH_CHECK, INITIAL_CORRUPT_CHECK, MEMBER_LOCAL_ADDR];
        let default = Gates::default();
        let moved = move |&at: &usize| self.on[at] != default.on[at] && !WORKING.contains(&GATES[at].name);
        (0..GATES.len()).filter(moved).map(|at| (GATES[at].name, self.on[at]))
    }

    /// Name, stage and position of every gate, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> + '_ {
        GATES.iter().zip(self.on).map(|(gate, on)| (gate.name, gate.stage, on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beta_is_on_and_groups_yield_to_names() {
        let gates = Gates::default();
        assert!(gates.enabled("FastLeaseKeepAlive") && !gates.enabled("InitialCorruptCheck"));
        let gates = Gates::parse("AllBeta=false, TxnModeWriteWithSharedBuffer=true").unwrap();
        assert!(!gates.enabled("FastLeaseKeepAlive") && gates.enabled("TxnModeWriteWithSharedBuffer"));
        let gates = Gates::parse("PriorityRequest=false,AllAlpha=true").unwrap();
        assert!(gates.enabled("SetMemberLocalAddr") && !gates.enabled("PriorityRequest"));
    }

    #[test]
    fn the_gates_of_the_checks_switch_the_checks() {
        let off = Gates::default();
        assert!(!off.checks_initially() && !off.checks_compactions());
        let gates = Gates::parse("InitialCorruptCheck=true").unwrap();
        assert!(gates.checks_initially() && !gates.checks_compactions());
        let gates = Gates::parse("CompactHashCheck=true,PriorityRequest=true").unwrap();
        assert!(!gates.checks_initially() && gates.checks_compactions());
        assert_eq!(gates.moved_in_vain().collect::<Vec<_>>(), [("PriorityRequest", true)]);
    }

    #[test]
    fn what_is_not_a_gate_is_named() {
        assert_eq!(Gates::parse("Foo=true").unwrap_err(), "unrecognized feature gate: Foo");
        assert_eq!(Gates::parse("AllBeta").unwrap_err(), "missing bool value for feature gate AllBeta");
        assert!(Gates::parse("AllBeta=maybe").unwrap_err().starts_with("invalid value of AllBeta=maybe"));
    }

    #[test]
    fn combinations_are_checked() {
        assert_eq!(Gates::parse("InitialCorruptCheck=true,CompactHashCheck=true").unwrap().check(), Ok(()));
        let persist = Gates::parse("LeaseCheckpointPersist=true").unwrap().check().unwrap_err();
        assert!(persist.contains("requires enabling feature gate LeaseCheckpoint"), "{persist}");
        for open in
            ["LeaseCheckpoint=true", "AllAlpha=true", "LeaseCheckpoint=true,LeaseCheckpointPersist=true"]
        {
            let gates = Gates::parse(open).unwrap();
            assert_eq!(gates.check(), Ok(()), "{open}");
            assert!(gates.moved_in_vain().any(|moved| moved == ("LeaseCheckpoint", true)), "{open}");
        }
        assert_eq!(Gates::default().moved_in_vain().count(), 0);
    }
}
