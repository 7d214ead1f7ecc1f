//! Topics that messages name only by their ids (KIP-516), as far as the connection's own answers to Metadata named them.

use std::collections::VecDeque;

/// Most topics that are known of a connection; the oldest is forgotten.
const TOPICS_MAX: usize = 64;
/// Longest name of a topic (Kafka's own limit).
const NAME_BYTES_MAX: usize = 249;

/// A topic's UUID.
pub(super) type Id = [u8; 16];

/// Names by ids.
#[derive(Debug, Default)]
pub(super) struct Topics(VecDeque<(Id, Box<str>)>);

impl Topics {
    /// An answer says which topic has this id. Brokers that know no ids write zeros.
    pub(super) fn learn(&mut self, id: Id, name: &str) {
        if id == [0; 16] || name.len() > NAME_BYTES_MAX || self.name(id).is_some_and(|known| known == name) {
            return;
        }
        self.0.retain(|(known, _)| *known != id);
        if self.0.len() >= TOPICS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((id, name.into()));
    }

    /// The name of the topic with this id.
    pub(super) fn name(&self, id: Id) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, name)| &**name)
    }
}
