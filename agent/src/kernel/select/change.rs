//! From one selection to the next, while traffic goes on.
//!
//! In: what the maps shall say. Out: changes of the maps in an order in which at every moment, of whatever is there, no more is
//! recorded than the old or the new selection records of it, and no less. So nothing is lost by a change, and an exclusion that
//! holds before or after it holds throughout.

use std::collections::BTreeMap;

use agent_common::settings::{Settings, mode};
use aya::maps::{HashMap, MapData, MapError};

use super::SelectError;

/// A part of a change of the maps of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// What is excluded from now on.
    Exclude,
    /// What is selected from now on, but for what was excluded.
    Select,
    /// All else: what is no longer selected, or no longer excluded.
    Clear,
}

/// What changing a selection does to the kernel side.
pub(super) trait Maps {
    /// What is in force.
    fn settings(&self) -> Result<Settings, SelectError>;
    /// Writes the settings, under a generation that was not used before.
    fn publish(&mut self, settings: Settings) -> Result<(), SelectError>;
    /// Takes a step in every map of rules. Answers whether anything changed.
    fn take(&mut self, step: Step) -> Result<bool, SelectError>;
}

/// Brings maps and settings to what is wanted.
pub(super) fn apply(maps: &mut impl Maps, wanted: Settings) -> Result<(), SelectError> {
    let before = maps.settings()?;
    let rules = before.rules | wanted.rules;
    // From here on children inherit the rules of their parents.
    let open = Settings { rules, agent_pid: wanted.agent_pid, ..before };
    if !is_same(&open, &before) {
        maps.publish(open)?;
    }
    let more = maps.take(Step::Exclude)? | maps.take(Step::Select)?;
    if more || !is_same(&open, &Settings { rules, ..wanted }) {
        maps.publish(Settings { rules, ..wanted })?;
    }
    // Only now: what is no longer excluded must not be recorded by settings that would record it.
    if maps.take(Step::Clear)? || rules != wanted.rules {
        maps.publish(wanted)?;
    }
    Ok(())
}

/// But for what is not of the selection.
fn is_same(one: &Settings, other: &Settings) -> bool {
    let selection = |it: &Settings| (it.unselected, it.payload_bytes_max, it.agent_pid, it.rules);
    selection(one) == selection(other)
}

/// A map of rules: values are [`mode`]s.
pub(super) trait Table<K> {
    /// What is in it.
    fn entries(&self) -> Result<BTreeMap<K, u32>, MapError>;
    /// Adds or replaces.
    fn put(&mut self, key: K, value: u32) -> Result<(), MapError>;
    /// Removes; gone already is fine.
    fn remove(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: aya::Pod + Ord> Table<K> for HashMap<MapData, K, u32> {
    fn entries(&self) -> Result<BTreeMap<K, u32>, MapError> {
        let keys: Vec<K> = self.keys().collect::<Result<_, _>>()?;
        // The kernel side forgets processes that end.
        Ok(keys.into_iter().filter_map(|key| Some((key, self.get(&key, 0).ok()?))).collect())
    }

    fn put(&mut self, key: K, value: u32) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        let _ = HashMap::remove(self, key);
        Ok(())
    }
}

/// Takes a step in one map. Answers whether anything changed.
pub(super) fn step<K: Ord + Copy>(
    table: &mut impl Table<K>,
    present: &BTreeMap<K, u32>,
    target: &BTreeMap<K, u32>,
    step: Step,
) -> Result<bool, MapError> {
    let mut changed = false;
    for (key, value) in target {
        let takes_part = match (step, present.get(key)) {
            (_, Some(known)) if known == value => false,
            (Step::Exclude, _) => *value == mode::EXCLUDE,
            (Step::Select, known) => *value != mode::EXCLUDE && known.is_none(),
            (Step::Clear, _) => true,
        };
        if takes_part {
            table.put(*key, *value)?;
            changed = true;
        }
    }
    for key in present.keys().filter(|key| step == Step::Clear && !target.contains_key(key)) {
        table.remove(key)?;
        changed = true;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use agent_common::settings::rule;

    use super::*;

    impl Table<u16> for BTreeMap<u16, u32> {
        fn entries(&self) -> Result<BTreeMap<u16, u32>, MapError> {
            Ok(self.clone())
        }

        fn put(&mut self, key: u16, value: u32) -> Result<(), MapError> {
            self.insert(key, value);
            Ok(())
        }

        fn remove(&mut self, key: &u16) -> Result<(), MapError> {
            BTreeMap::remove(self, key);
            Ok(())
        }
    }

    /// One map, and what is recorded of port 1 and of port 2 after each change of anything.
    #[derive(Clone, Default)]
    struct Model {
        settings: Settings,
        ports: BTreeMap<u16, u32>,
        target: BTreeMap<u16, u32>,
        seen: Vec<[u32; 2]>,
        published: usize,
    }

    impl Model {
        /// 0: nothing, then the more the more.
        fn recorded(&self) -> [u32; 2] {
            let rule = |port| self.ports.get(&port).filter(|_| self.settings.rules & rule::PORT != 0);
            let unselected = self.settings.unselected;
            [1, 2].map(|port| match rule(port) {
                Some(&mode::EXCLUDE) => 0,
                Some(value) => unselected.max(*value),
                None => unselected,
            })
        }

        fn note(&mut self) {
            self.seen.push(self.recorded());
        }
    }

    impl Maps for Model {
        fn settings(&self) -> Result<Settings, SelectError> {
            Ok(self.settings)
        }

        fn publish(&mut self, settings: Settings) -> Result<(), SelectError> {
            self.settings = settings;
            self.published += 1;
            self.note();
            Ok(())
        }

        fn take(&mut self, which: Step) -> Result<bool, SelectError> {
            let (present, target) = (self.ports.clone(), self.target.clone());
            let changed = step(&mut self.ports, &present, &target, which).unwrap();
            self.note();
            Ok(changed)
        }
    }

    /// Every selection of two ports, with what is recorded of what it does not name.
    fn selections() -> Vec<(Settings, BTreeMap<u16, u32>)> {
        let values = [None, Some(mode::EXCLUDE), Some(mode::PAYLOAD)];
        let mut all = Vec::new();
        for unselected in [mode::NONE, mode::TIMING, mode::PAYLOAD] {
            for (one, two) in values.iter().flat_map(|one| values.iter().map(move |two| (*one, *two))) {
                let ports: BTreeMap<_, _> =
                    [(1, one), (2, two)].into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
                let rules = if ports.is_empty() { 0 } else { rule::PORT };
                all.push((Settings { unselected, rules, agent_pid: 1, ..Settings::default() }, ports));
            }
        }
        all
    }

    #[test]
    fn at_every_moment_what_is_recorded_lies_between_the_old_and_the_new_selection() {
        for (old_settings, old) in selections() {
            for (settings, target) in selections() {
                let model = Model { settings: old_settings, ports: old.clone(), target, ..Model::default() };
                let mut changing = model.clone();
                apply(&mut changing, settings).unwrap();
                assert_eq!((changing.settings, &changing.ports), (settings, &changing.target));
                for port in 0..2 {
                    let ends = [model.recorded()[port], changing.recorded()[port]];
                    let (least, most) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
                    let is_between = changing.seen.iter().all(|seen| (least..=most).contains(&seen[port]));
                    assert!(is_between, "{old_settings:?} {old:?} to {settings:?}: {:?}", changing.seen);
                }
            }
        }
    }

    #[test]
    fn what_is_the_same_changes_nothing() {
        for (settings, ports) in selections() {
            let mut model = Model { settings, ports: ports.clone(), target: ports, ..Model::default() };
            apply(&mut model, settings).unwrap();
            assert_eq!(model.published, 0);
        }
    }
}
