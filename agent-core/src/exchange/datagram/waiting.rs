//! What waits for an answer, by what names it, given up in time.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Entries that each have a time at which they are given up.
#[derive(Debug)]
pub(super) struct Waiting<K, V> {
    entries: HashMap<K, Entry<V>>,
    due: BTreeMap<(u64, u64), K>,
    serial: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    /// Its key in `due`.
    due: (u64, u64),
}

impl<K, V> Default for Waiting<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), due: BTreeMap::new(), serial: 0 }
    }
}

impl<K: Clone + Eq + Hash, V> Waiting<K, V> {
    /// Adds an entry, of which there is none with this key yet.
    pub fn insert(&mut self, key: K, value: V, due_ns: u64) {
        self.serial += 1;
        let due = (due_ns, self.serial);
        self.due.insert(due, key.clone());
        self.entries.insert(key, Entry { value, due });
    }

    /// An entry, as it is.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// An entry, which from now on is due at another time.
    pub fn touch(&mut self, key: &K, due_ns: u64) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        if let Some(key) = self.due.remove(&entry.due) {
            entry.due.0 = due_ns;
            self.due.insert(entry.due, key);
        }
        Some(&mut entry.value)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.due.remove(&entry.due);
        Some(entry.value)
    }

    /// Takes out an entry that is due.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<(K, V)> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= now_ns)?;
        let key = first.remove();
        self.entries.remove(&key).map(|entry| (key, entry.value))
    }

    /// Takes out the entry that is due first, if there are `max` or more.
    pub fn pop_excess(&mut self, max: usize) -> Option<(K, V)> {
        if self.entries.len() < max.max(1) { None } else { self.pop_due(u64::MAX) }
    }

    /// Takes out every entry.
    pub fn pop_all(&mut self) -> Vec<(K, V)> {
        std::iter::from_fn(|| self.pop_due(u64::MAX)).collect()
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// The keys of entries.
    pub fn keys_where(&self, test: impl Fn(&K, &V) -> bool) -> Vec<K> {
        self.iter().filter(|(key, value)| test(key, value)).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_due_when_they_were_last_touched_for() {
        let mut waiting = Waiting::default();
        waiting.insert("a", 1, 10);
        waiting.insert("b", 2, 11);
        assert_eq!(waiting.pop_due(9), None);
        *waiting.touch(&"a", 20).unwrap() += 5;
        assert_eq!(waiting.pop_due(15), Some(("b", 2)));
        assert_eq!(waiting.pop_due(15), None);
        assert_eq!(waiting.pop_due(20), Some(("a", 6)));
        waiting.insert("c", 3, 30);
        waiting.touch(&"c", 25);
        assert_eq!(waiting.pop_due(26), Some(("c", 3)));
        assert_eq!(waiting.pop_due(99), None);
    }

    #[test]
    fn what_is_done_and_asked_anew_is_due_once() {
        let mut waiting = Waiting::default();
        waiting.insert("a", 1, 10);
        assert_eq!(waiting.remove(&"a"), Some(1));
        waiting.insert("a", 2, 20);
        assert_eq!(waiting.pop_due(15), None);
        assert_eq!(waiting.pop_due(25), Some(("a", 2)));
        assert_eq!(waiting.pop_due(25), None);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut waiting = Waiting::default();
        for key in 0..4 {
            waiting.insert(key, (), 10);
        }
        waiting.remove(&0);
        assert_eq!(waiting.pop_excess(3), Some((1, ())));
        assert_eq!(waiting.pop_excess(3), None);
        assert_eq!(waiting.pop_all().len(), 2);
    }
}
