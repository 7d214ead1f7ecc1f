//! How many requests are worked on at the same time, and how many bytes they may take.
//!
//! A request first gets a place, then room for its bytes. Senders wait for both for a moment, which slows them down to what can be
//! taken; then they are told to come again. Room is waited for only by requests that hold none, so that none wait for each other.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::answer::Refused;

/// How long a sender waits for a place or room.
const WAIT: Duration = Duration::from_secs(1);
/// When a sender who waited in vain is asked to come again.
const COME_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Admission {
    requests: Arc<Semaphore>,
    requests_max: u32,
    bytes: Arc<Semaphore>,
}

/// A request's place and room, given back when it goes.
#[derive(Debug)]
pub(super) struct Place {
    _request: OwnedSemaphorePermit,
    room: Option<OwnedSemaphorePermit>,
    bytes: Arc<Semaphore>,
}

impl Admission {
    pub(super) fn new(requests_max: usize, bytes_max: u64) -> Self {
        let requests_max = u32::try_from(requests_max).unwrap_or(u32::MAX);
        Self {
            requests: Arc::new(Semaphore::new(requests_max as usize)),
            requests_max,
            bytes: Arc::new(Semaphore::new(usize::try_from(bytes_max).unwrap_or(usize::MAX))),
        }
    }

    pub(super) async fn enter(&self) -> Result<Place, Refused> {
        let request = waited(Arc::clone(&self.requests), 1).await?;
        Ok(Place { _request: request, room: None, bytes: Arc::clone(&self.bytes) })
    }

    /// Completes when no request is worked on.
    pub(super) async fn all_left(&self) {
        // The semaphore is never closed.
        let _ = self.requests.acquire_many(self.requests_max).await;
    }
}

impl Place {
    /// Room for `bytes`. Called once, before anything is kept.
    pub(super) async fn reserve(&mut self, bytes: usize) -> Result<(), Refused> {
        self.room = Some(waited(Arc::clone(&self.bytes), permits(bytes)).await?);
        Ok(())
    }

    /// Sees to it that there is room for `bytes` in all, without waiting.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Refused> {
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(more) = bytes.checked_sub(held).filter(|more| *more > 0) else { return Ok(()) };
        let more = Arc::clone(&self.bytes).try_acquire_many_owned(permits(more)).map_err(|_| full())?;
        match &mut self.room {
            Some(room) => room.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Gives back all but room for `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if let Some(room) = &mut self.room {
            drop(room.split(room.num_permits().saturating_sub(bytes)));
        }
    }
}

async fn waited(semaphore: Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, Refused> {
    match timeout(WAIT, semaphore.acquire_many_owned(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(full()),
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn full() -> Refused {
    Refused::Full { retry_after: COME_AGAIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_full<T>(result: Result<T, Refused>) -> bool {
        matches!(result, Err(Refused::Full { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limits_senders_wait_and_are_told_to_come_again() {
        let admission = Admission::new(2, 100);
        let mut first = admission.enter().await.unwrap();
        let mut second = admission.enter().await.unwrap();
        assert!(is_full(admission.enter().await));
        first.reserve(60).await.unwrap();
        assert!(is_full(second.reserve(60).await));
        second.reserve(40).await.unwrap();
        assert!(is_full(second.grow_to(41)));
        first.shrink_to(50);
        second.grow_to(50).unwrap();
        drop(first);
        second.grow_to(100).unwrap();
        drop(second);
        admission.all_left().await;
        admission.enter().await.unwrap().reserve(100).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_is_given_back() {
        let admission = Arc::new(Admission::new(1, 1));
        let place = admission.enter().await.unwrap();
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter().await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(place);
        assert!(waiting.await.unwrap());
    }
}
