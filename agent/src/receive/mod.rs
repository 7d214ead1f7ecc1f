//! Receives spans of SDKs and collectors: OTLP/gRPC, OTLP/HTTP and Zipkin, on TCP and on unix sockets.
//!
//! In: requests of others. Out: their protobuf, undecoded, to the intake, and to the sender what the intake says of it: nothing is
//! acknowledged here. Called by the wiring of `spantap run`. Never keeps a request, never retries, never drops one silently: each is
//! answered and counted.
//!
//! Limits: size of a request, also while it is decompressed; requests, bytes and connections at a time; time for a request to arrive;
//! spans and bytes per second of each tenant. Beyond them senders are made to wait for a moment and are then refused, with the time to
//! come again where that helps.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    capture::lock,
    config::{Address, Receive},
    intake::Take,
};

mod listen;
mod tls;

mod connection;
mod grpc;
mod http;

mod admission;
mod body;
mod files;
mod front;
mod quota;
mod senders;

mod json;
mod zipkin;

mod answer;
mod stats;

#[cfg(test)]
mod tests;

use self::{admission::Admission, files::Watched, front::Front, listen::Listener, senders::Senders, tls::ServerTls};
pub use self::{
    senders::TenantCounts,
    stats::{Outcome, Protocol, ReceiverCounts, ReceiverStats, RequestCount},
};

/// How often certificates and tokens are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why spans cannot be received as configured. Every message names the key and the next step where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {address}: {cause}; choose another address, or stop what listens there")]
    Listen {
        /// Key in the configuration.
        key: &'static str,
        /// The address.
        address: Address,
        /// Why.
        cause: std::io::Error,
    },
    /// A unix socket cannot be listened on.
    #[error("{key}: cannot listen on {}: {cause}; choose another path, or remove what is there", path.display())]
    Socket {
        /// Key in the configuration.
        key: &'static str,
        /// The socket or its folder.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {cause}", path.display())]
    File {
        /// Key in the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{key}: {} cannot be used: {cause}", path.display())]
    Tls {
        /// Key in the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A token cannot be used. The message does not have it.
    #[error("receive.tenants: token of `{tenant}`: {cause}")]
    Token {
        /// Whose.
        tenant: String,
        /// Why.
        cause: String,
    },
}

/// The addresses, opened; nothing is answered yet.
pub struct Bound {
    receive: Receive,
    listeners: Vec<Listener>,
    kept: Kept,
}

/// The running receivers. When it is dropped they stop at once; [`Self::shutdown`] lets them finish.
pub struct Receivers {
    addresses: Vec<Address>,
    stats: Arc<ReceiverStats>,
    admission: Arc<Admission>,
    stop: watch::Sender<bool>,
    shutdown_timeout: Duration,
    tasks: Vec<JoinHandle<()>>,
}

impl Bound {
    /// Opens every address and reads certificates and tokens, so that whatever an operator got wrong is said before anything else
    /// starts. Senders may connect already; they wait. Needs a tokio runtime.
    ///
    /// # Errors
    /// An address cannot be opened, or a file or token cannot be used.
    pub fn bind(receive: &Receive) -> Result<Self, ReceiveError> {
        let kept = Kept::load(receive)?;
        let listeners = listen::bind(receive, kept.tls.as_ref())?;
        Ok(Self { receive: receive.clone(), listeners, kept })
    }

    /// The addresses, with the ports that were free where port 0 was asked for.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(|listener| listener.address.clone()).collect()
    }

    /// Starts to answer.
    pub fn serve<T: Take>(self, intake: T) -> Receivers {
        let addresses = self.addresses();
        let Self { receive, listeners, kept } = self;
        let stats = Arc::clone(&kept.stats);
        let front = Arc::new(Front::new(&receive, intake, Arc::clone(&kept.senders), Arc::clone(&stats)));
        let places = Arc::new(Semaphore::new(receive.connections_max));
        let (stop, stopping) = watch::channel(false);
        let serve = |listener: Listener| {
            tracing::info!(address = %listener.address, tls = listener.tls.is_some(), "receiving spans");
            tokio::spawn(connection::serve(listener, Arc::clone(&front), Arc::clone(&places), stopping.clone()))
        };
        let mut tasks: Vec<_> = listeners.into_iter().map(serve).collect();
        tasks.push(tokio::spawn(kept.keep_fresh(stopping)));
        let (admission, shutdown_timeout) = (Arc::clone(&front.admission), receive.shutdown_timeout.0);
        Receivers { addresses, stats, admission, stop, shutdown_timeout, tasks }
    }
}

impl Receivers {
    /// [`Bound::bind`] and [`Bound::serve`].
    ///
    /// # Errors
    /// As [`Bound::bind`].
    pub fn start<T: Take>(receive: &Receive, intake: T) -> Result<Self, ReceiveError> {
        Ok(Bound::bind(receive)?.serve(intake))
    }

    /// As [`Bound::addresses`].
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What became of requests.
    pub fn stats(&self) -> &Arc<ReceiverStats> {
        &self.stats
    }

    /// Closes the addresses, answers what is under way for as long as the configuration allows, and ends. What was not handed to the
    /// intake by then was never acknowledged.
    pub async fn shutdown(mut self) {
        let deadline = Instant::now() + self.shutdown_timeout;
        self.stop.send_replace(true);
        for mut task in std::mem::take(&mut self.tasks) {
            if timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
        // Also of senders who are gone.
        if timeout_at(deadline, self.admission.all_left()).await.is_err() {
            tracing::warn!("requests were still being worked on when the receivers ended");
        }
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What is read from files and read again when they change.
struct Kept {
    tls: Option<Arc<ServerTls>>,
    senders: Arc<Senders>,
    stats: Arc<ReceiverStats>,
    watched: Mutex<[Watched; 2]>,
}

impl Kept {
    fn load(receive: &Receive) -> Result<Self, ReceiveError> {
        let tls = &receive.tls;
        let certificates =
            [&tls.cert_file, &tls.key_file, &tls.client_ca_file].into_iter().flatten().cloned().collect();
        // Before they are read, so that no change is missed.
        let watched = [Watched::new(certificates), Watched::new(senders::token_files(receive))];
        let tls = ServerTls::new(tls)?.map(Arc::new);
        let senders = Arc::new(Senders::new(receive)?);
        let stats = Arc::<ReceiverStats>::default();
        stats.set_tenants(senders.all());
        Ok(Self { tls, senders, stats, watched: Mutex::new(watched) })
    }

    async fn keep_fresh(self, mut stopping: watch::Receiver<bool>) {
        if lock(&self.watched).iter().all(Watched::is_empty) {
            return;
        }
        let kept = Arc::new(self);
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let looking = Arc::clone(&kept);
            // Files may be on a network.
            let _ = tokio::task::spawn_blocking(move || looking.look()).await;
        }
    }

    fn look(&self) {
        let mut watched = lock(&self.watched);
        let [certificates, tokens] = &mut *watched;
        if certificates.changed()
            && let Some(tls) = &self.tls
        {
            self.note("certificates", tls.reload());
        }
        if tokens.changed() {
            self.note("tokens", self.senders.reload());
        }
    }

    fn note(&self, what: &str, result: Result<bool, ReceiveError>) {
        match result {
            Ok(false) => {}
            Ok(true) => {
                self.stats.count_reload(true);
                tracing::info!("{what} changed and are used from now on");
            }
            Err(error) => {
                self.stats.count_reload(false);
                tracing::warn!(%error, "{what} changed and cannot be used; the previous ones stay");
            }
        }
    }
}
