//! Statements that a connection can execute again, by their names.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use super::Statement;

/// Statements by their names or numbers. The one that was used least recently goes first, and is then executed as unknown.
#[derive(Debug)]
pub struct Prepared<K> {
    known: HashMap<K, (u64, Arc<Statement>)>,
    bytes: usize,
    uses: u64,
    count_max: usize,
    bytes_max: usize,
}

impl<K: Eq + Hash + Clone> Prepared<K> {
    /// At most `count_max` of them, that take at most `bytes_max` bytes without their names.
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        Self { known: HashMap::new(), bytes: 0, uses: 0, count_max, bytes_max }
    }

    /// Keeps a statement, in place of the one of that name.
    pub fn insert(&mut self, name: K, statement: Arc<Statement>) {
        self.remove(&name);
        self.bytes += statement.bytes();
        self.uses += 1;
        self.known.insert(name, (self.uses, statement));
        while self.known.len() > self.count_max || (self.bytes > self.bytes_max && self.known.len() > 1) {
            let Some(oldest) = self.known.iter().min_by_key(|(_, (used, _))| *used) else { return };
            let oldest = oldest.0.clone();
            self.remove(&oldest);
        }
    }

    /// The statement of a name.
    pub fn get<Q>(&mut self, name: &Q) -> Option<Arc<Statement>>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (used, statement) = self.known.get_mut(name)?;
        self.uses += 1;
        *used = self.uses;
        Some(statement.clone())
    }

    /// Forgets a name.
    pub fn remove<Q>(&mut self, name: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some((_, statement)) = self.known.remove(name) {
            self.bytes -= statement.bytes();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        (self.known, self.bytes) = (HashMap::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(bytes: usize) -> Arc<Statement> {
        Arc::new(Statement { text: "x".repeat(bytes).into(), ..Statement::default() })
    }

    #[test]
    fn what_was_used_least_recently_goes_first() {
        let mut prepared = Prepared::new(3, usize::MAX);
        for name in 0..5 {
            prepared.insert(name, Arc::default());
            prepared.get(&0);
        }
        let kept: Vec<_> = (0..5).filter(|name| prepared.known.contains_key(name)).collect();
        assert_eq!(kept, [0, 3, 4]);
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let mut prepared = Prepared::new(9, 3000);
        prepared.insert(1, statement(2000));
        prepared.insert(2, statement(2000));
        assert!(prepared.get(&1).is_none() && prepared.get(&2).is_some());
        prepared.insert(2, statement(10));
        prepared.remove(&2);
        assert_eq!(prepared.bytes, 0);
    }
}
