//! Connections to the brokers of a cluster, and who leads which partition of the topic.
//!
//! In: the places of the configuration, by which the others are found. Nothing is connected before it is needed; a connection that
//! ended is made anew, with the certificates and credentials of that time.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Uri};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use rskafka::{
    messenger::{Messenger, SyncVersionsError},
    protocol::{
        messages::{MetadataRequest, MetadataRequestTopic, MetadataResponse},
        primitives::String_,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufStream, ReadBuf},
    sync::Mutex,
    time::Instant,
};
use tower::ServiceExt;

use super::{
    super::{
        ExportError,
        connect::{Connector, Renewed, Target},
        counted::Counted,
        retry::{AgainKind, Outcome},
    },
    sasl::Sasl,
    verdict::{Trouble, of_error, of_failure, of_request_error, of_sasl},
};
use crate::config::Destination;

/// How the agent calls itself.
const CLIENT_ID: &str = "spantap";
/// Longest answer that is read: what a broker says of one topic, or of a few batches.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// After this the leaders are asked for again, as new partitions are told to nobody.
const TOPIC_AGE_MAX: Duration = Duration::from_secs(300);

type Stream = BufStream<Watched<TokioIo<MaybeHttpsStream<TokioIo<Counted>>>>>;

/// A connection to a broker.
pub(super) struct Broker {
    /// Its `host:port`.
    pub place: String,
    pub messenger: Messenger<Stream>,
    is_over: Arc<AtomicBool>,
}

/// What is known of the topic.
pub(super) struct Topic {
    /// `host:port` of each partition's leader, where there is one.
    leaders: Vec<Option<String>>,
}

pub(super) struct Cluster {
    connector: Renewed<Connector>,
    is_tls: bool,
    places: Vec<String>,
    url: String,
    topic: String,
    sasl: Sasl,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    topic: Option<(Instant, Arc<Topic>)>,
    brokers: HashMap<String, Arc<Broker>>,
}

impl Topic {
    /// At least 1.
    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.leaders.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn leader(&self, partition: i32) -> Option<&str> {
        self.leaders.get(usize::try_from(partition).ok()?)?.as_deref()
    }
}

impl Cluster {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        Ok(Self {
            connector: Renewed::new(Target::new(destination, ""), |connector| connector)?,
            is_tls: destination.url.tls,
            places: destination.url.places(),
            url: destination.url.to_string(),
            topic: destination.url.name().to_owned(),
            sasl: Sasl::new(destination),
            state: Mutex::default(),
        })
    }

    /// Bytes sent to brokers.
    pub(super) fn sent(&self) -> u64 {
        self.connector.sent()
    }

    /// The topic, as it was told a short time ago.
    pub(super) async fn topic(&self, authorization: Option<&HeaderValue>) -> Result<Arc<Topic>, Outcome> {
        let mut state = self.state.lock().await;
        if let Some((since, topic)) = &state.topic
            && since.elapsed() < TOPIC_AGE_MAX
        {
            return Ok(Arc::clone(topic));
        }
        let asked = self.ask(&mut state, authorization).await;
        let topic = asked.map_err(|trouble| trouble.into_outcome())?;
        state.topic = Some((Instant::now(), Arc::clone(&topic)));
        Ok(topic)
    }

    /// Has the leaders asked for again before the next request.
    pub(super) async fn look_again(&self) {
        self.state.lock().await.topic = None;
    }

    /// A connection to the broker at this place.
    pub(super) async fn broker(
        &self,
        place: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Arc<Broker>, Trouble> {
        self.connected(&mut *self.state.lock().await, place, authorization).await
    }

    async fn connected(
        &self,
        state: &mut State,
        place: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Arc<Broker>, Trouble> {
        state.brokers.retain(|_, broker| !broker.is_over.load(Relaxed));
        if let Some(broker) = state.brokers.get(place) {
            return Ok(Arc::clone(broker));
        }
        let broker = Arc::new(self.connect(place, authorization).await?);
        state.brokers.insert(place.to_owned(), Arc::clone(&broker));
        Ok(broker)
    }

    async fn connect(&self, place: &str, authorization: Option<&HeaderValue>) -> Result<Broker, Trouble> {
        let scheme = if self.is_tls { "https" } else { "http" };
        let uri: Uri = format!("{scheme}://{place}").parse().map_err(|cause: http::uri::InvalidUri| {
            Trouble::Again(AgainKind::Misconfigured, format!("{}: a broker calls itself {place}: {cause}", self.url))
        })?;
        let stream = self.connector.get().oneshot(uri).await.map_err(|error| of_failure(place, &*error))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let stream = Watched { stream: TokioIo::new(stream), is_over: Arc::clone(&is_over) };
        let mut messenger = Messenger::new(BufStream::new(stream), ANSWER_BYTES_MAX, CLIENT_ID.into());
        messenger.sync_versions().await.map_err(|error| match &error {
            SyncVersionsError::RequestError(error) => of_request_error(place, error),
            error => of_failure(place, error),
        })?;
        if let Some(sasl) = self.sasl.config(authorization).map_err(|cause| Trouble::Again(AgainKind::Auth, cause))? {
            messenger.do_sasl(sasl).await.map_err(|error| of_sasl(place, &error))?;
        }
        Ok(Broker { place: place.to_owned(), messenger, is_over })
    }

    /// Asks one broker after the other: those of the configuration, then those that are connected.
    async fn ask(&self, state: &mut State, authorization: Option<&HeaderValue>) -> Result<Arc<Topic>, Trouble> {
        let known = state.brokers.keys().filter(|place| !self.places.contains(place)).cloned();
        let places: Vec<String> = self.places.iter().cloned().chain(known).collect();
        let mut first = None;
        for place in places {
            let asked = match self.connected(state, &place, authorization).await {
                Ok(broker) => self.ask_one(&broker).await,
                Err(trouble) => Err(trouble),
            };
            match asked {
                Ok(topic) => return Ok(topic),
                Err(trouble) => _ = first.get_or_insert(trouble),
            }
        }
        // There is a place in every URL.
        Err(first.unwrap_or_else(|| Trouble::Again(AgainKind::Misconfigured, format!("{}: no broker", self.url))))
    }

    async fn ask_one(&self, broker: &Broker) -> Result<Arc<Topic>, Trouble> {
        let topics = vec![MetadataRequestTopic { name: String_(self.topic.clone()) }];
        let request = MetadataRequest { topics: Some(topics), allow_auto_topic_creation: None };
        let response = broker.messenger.request(request).await;
        let response = response.map_err(|error| of_request_error(&broker.place, &error))?;
        self.leaders(response).map(Arc::new)
    }

    fn leaders(&self, response: MetadataResponse) -> Result<Topic, Trouble> {
        let brokers = response.brokers.into_iter();
        let places: HashMap<i32, String> =
            brokers.map(|broker| (broker.node_id.0, place(&broker.host.0, broker.port.0))).collect();
        let topic = response.topics.into_iter().find(|topic| topic.name.0 == self.topic);
        let Some(topic) = topic else { return Err(self.is_not_told()) };
        if let Some(error) = topic.error {
            return Err(of_error(error, &self.url, &self.topic));
        }
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|partition| partition.partition_index.0);
        // They are numbered from 0; another list has nothing that keys could be put by.
        let are_numbered = (0..).zip(&partitions).all(|(number, partition)| partition.partition_index.0 == number);
        if partitions.is_empty() || !are_numbered {
            return Err(self.is_not_told());
        }
        Ok(Topic {
            leaders: partitions.into_iter().map(|partition| places.get(&partition.leader_id.0).cloned()).collect(),
        })
    }

    fn is_not_told(&self) -> Trouble {
        let cause = format!("{}: the brokers do not tell the partitions of the topic", self.url);
        Trouble::Again(AgainKind::Unavailable, cause)
    }
}

/// `host:port`, with IPv6 in brackets.
fn place(host: &str, port: i32) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A stream that tells when it is over, so that no request is lost on it.
pub(super) struct Watched<S> {
    stream: S,
    is_over: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let is_end = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0;
        if is_end || matches!(polled, Poll::Ready(Err(_))) {
            self.is_over.store(true, Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Err(_))) {
            self.is_over.store(true, Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
