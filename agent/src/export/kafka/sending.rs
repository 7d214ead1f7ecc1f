//! A request on its way to several partitions: what was taken, what is left, what was refused for good.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{
    super::{
        format::Format,
        retry::{AgainKind, Outcome},
    },
    Answer,
    records::Batch,
    verdict::Trouble,
};

/// A request, and what is left of it.
#[derive(Clone)]
pub(super) struct Sending {
    left: Vec<Arc<Batch>>,
    format: Format,
    any_taken: bool,
    refused: Vec<Arc<Batch>>,
    /// Whether all that was refused was too large.
    only_size: bool,
    cause: String,
}

impl Sending {
    pub(super) fn new(batches: Vec<Batch>, format: Format) -> Self {
        let left = batches.into_iter().map(Arc::new).collect();
        Self { left, format, any_taken: false, refused: Vec::new(), only_size: true, cause: String::new() }
    }

    /// What may be sent next: the first batch of each partition. A request has one batch of a partition, and their order stays.
    pub(super) fn round(&self) -> Vec<Arc<Batch>> {
        let mut partitions = BTreeSet::new();
        self.left.iter().filter(|batch| partitions.insert(batch.partition)).cloned().collect()
    }

    /// Takes note of what became of a round. An outcome: the rest cannot be sent now.
    pub(super) fn settle(&mut self, answers: Vec<Answer>) -> Option<Outcome> {
        let mut again: Option<(AgainKind, String)> = None;
        for (batch, answer) in answers {
            match answer {
                Ok(()) => {
                    self.any_taken = true;
                    self.replace(&batch, Vec::new());
                }
                Err(Trouble::TooLarge(cause)) => self.halve(batch, cause),
                Err(Trouble::Never(cause)) => self.refuse(batch, cause, false),
                // Credentials and the topic matter more than a broker that is away.
                Err(Trouble::Again(kind, cause)) => {
                    if again.as_ref().is_none_or(|(known, _)| *known == AgainKind::Unavailable) {
                        again = Some((kind, cause));
                    }
                }
            }
        }
        again.map(|(kind, cause)| Outcome::again(kind, cause))
    }

    /// The outcome once nothing is left.
    pub(super) fn outcome(self) -> Outcome {
        let Self { any_taken, refused, only_size, cause, .. } = self;
        if refused.is_empty() {
            return Outcome::Delivered { rejected: 0, message: String::new() };
        }
        if !any_taken {
            return if only_size { Outcome::TooLarge { cause } } else { Outcome::Never { cause } };
        }
        let spans = refused.iter().map(|batch| batch.spans()).sum();
        // Requests that stand behind each other are a request.
        let requests: Vec<&[u8]> =
            refused.iter().flat_map(|batch| &batch.records).map(|record| &record.request[..]).collect();
        Outcome::Partly { refused: Bytes::from(requests.concat()), spans, cause }
    }

    fn halve(&mut self, batch: Arc<Batch>, cause: String) {
        let format = self.format;
        match batch.halves(format) {
            Some(halves) => self.replace(&batch, halves.map(Arc::new).to_vec()),
            None => self.refuse(batch, cause, true),
        }
    }

    fn refuse(&mut self, batch: Arc<Batch>, cause: String, is_size: bool) {
        self.replace(&batch, Vec::new());
        self.refused.push(batch);
        self.only_size &= is_size;
        self.cause = cause;
    }

    fn replace(&mut self, batch: &Arc<Batch>, by: Vec<Arc<Batch>>) {
        if let Some(place) = self.left.iter().position(|other| Arc::ptr_eq(other, batch)) {
            self.left.splice(place..=place, by);
        }
    }
}
