//! Statements that a connection can execute again, by their names.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use super::Statement;

/// Most statements that one connection keeps.
pub const PREPARED_MAX: usize = 256;
/// Most bytes that they take; the one that was used least recently goes first.
pub const PREPARED_BYTES_MAX: usize = 32 * 1024;

/// Statements by their names or numbers. One that had to go is executed as unknown.
#[derive(Debug)]
pub struct Prepared<K> {
    known: HashMap<K, (u64, Arc<Statement>)>,
    bytes: usize,
    uses: u64,
}

impl<K> Default for Prepared<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), bytes: 0, uses: 0 }
    }
}

impl<K: Eq + Hash + Clone> Prepared<K> {
    /// Keeps a statement, in place of the one of that name.
    pub fn insert(&mut self, name: K, statement: Arc<Statement>) {
        self.remove(&name);
        self.bytes += statement.bytes();
        self.uses += 1;
        self.known.insert(name, (self.uses, statement));
        while self.known.len() > PREPARED_MAX || (self.bytes > PREPARED_BYTES_MAX && self.known.len() > 1) {
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
        Arc::new(Statement { text: "x".repeat(bytes), ..Statement::default() })
    }

    #[test]
    fn what_was_used_least_recently_goes_first() {
        let mut prepared = Prepared::default();
        for name in 0..PREPARED_MAX {
            prepared.insert(name, Arc::default());
            prepared.get(&0);
        }
        assert!(prepared.get(&0).is_some() && prepared.bytes <= PREPARED_BYTES_MAX);
        let kept = (0..PREPARED_MAX).filter(|name| prepared.known.contains_key(name)).count();
        assert_eq!(kept, PREPARED_BYTES_MAX / size_of::<Statement>());
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let mut prepared = Prepared::default();
        prepared.insert(1, statement(PREPARED_BYTES_MAX - 1000));
        prepared.insert(2, statement(2000));
        assert!(prepared.get(&1).is_none() && prepared.get(&2).is_some());
        prepared.insert(2, statement(10));
        prepared.remove(&2);
        assert_eq!(prepared.bytes, 0);
    }
}
