//! Sends the agent's own metrics to receivers of OTLP, from time to time.
//!
//! In: [`Facts`] of the running agent, and where to. Out: requests. What is not taken is not sent again: the next values, which are
//! cumulative, hold all that it held. Ends with a last push when the agent stops, before its last spans are sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    health::Facts,
    log::RateLimit,
    otlp::{self, Times},
};
use crate::{
    config::Push,
    export::{ExportError, MetricsClient},
    run::unix_ns,
};

/// Time that the last push of a stopping agent may take.
const LAST_MAX: Duration = Duration::from_secs(2);
/// Time between two messages about the same receiver.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(60);

/// What became of pushes since the agent started.
#[derive(Debug, Default)]
pub struct PushCounts {
    taken: AtomicU64,
    failed: AtomicU64,
}

impl PushCounts {
    /// Taken, and not or not whole.
    pub fn now(&self) -> [u64; 2] {
        [&self.taken, &self.failed].map(|count| count.load(Relaxed))
    }
}

/// A receiver, not pushed to yet.
pub struct Pusher {
    client: MetricsClient,
    interval: Duration,
    messages: RateLimit,
}

impl Pusher {
    /// One for each receiver.
    ///
    /// # Errors
    /// One cannot be served at all.
    pub fn all(to: &[Push]) -> Result<Vec<Self>, ExportError> {
        let one = |push: &Push| {
            let messages = RateLimit::new(MESSAGE_INTERVAL);
            Ok(Self { client: MetricsClient::new(push)?, interval: push.interval.0, messages })
        };
        to.iter().map(one).collect()
    }

    /// Pushes to all of them until `stopped` says so.
    pub fn start(
        all: Vec<Self>,
        facts: &Arc<impl Facts>,
        counts: &Arc<PushCounts>,
        host_name: Option<&str>,
        stopped: &watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let mut running = JoinSet::new();
        for pusher in all {
            let (facts, counts, stopped) = (Arc::clone(facts), Arc::clone(counts), stopped.clone());
            let host_name = host_name.map(str::to_owned);
            running.spawn(async move { pusher.keep(&*facts, &counts, host_name.as_deref(), stopped).await });
        }
        running
    }

    async fn keep(
        mut self,
        facts: &impl Facts,
        counts: &PushCounts,
        host_name: Option<&str>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut due = interval(self.interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_stopping = tokio::select! {
                _ = due.tick() => false,
                // An error means that the sender is gone, which is the end too.
                _ = stopped.wait_for(|stopped| *stopped) => true,
            };
            if is_stopping {
                let _ = timeout(LAST_MAX, self.push(facts, counts, host_name)).await;
                return;
            }
            self.push(facts, counts, host_name).await;
        }
    }

    async fn push(&mut self, facts: &impl Facts, counts: &PushCounts, host_name: Option<&str>) {
        // Counts in databases and files: may wait for a disk.
        let snapshot = tokio::task::block_in_place(|| facts.snapshot());
        let times = Times { started_unix_ns: snapshot.started_unix_ns, now_unix_ns: unix_ns() };
        let request = otlp::request(&snapshot.families(), host_name, times);
        match self.client.send(request.encode_to_vec().into()).await {
            Ok(()) => counts.taken.fetch_add(1, Relaxed),
            Err(cause) => {
                if let Some(unsaid) = self.messages.allow() {
                    tracing::warn!(to = self.client.name(), unsaid, "metrics were not taken: {cause}");
                }
                counts.failed.fetch_add(1, Relaxed)
            }
        };
    }
}
