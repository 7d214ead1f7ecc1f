//! Answers about spans that destinations did not get, and has them sent.
//!
//! In: requests that the query server has checked. Out: what was found, or the spans. Reads the log on blocking threads.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use agent_core::cause::words::{counted, verb};

use super::api::{LateSpans, Live, SendLateReport, SendLateRequest, SpanBytes};
use crate::{
    export::late::{self, LateError},
    log::SpanLog,
};

/// Blocks of spans on the way to a client.
const CHANNEL_BLOCKS: usize = 4;
/// What `status` and messages call a request of a person.
const ASKED_BY_COMMAND: &str = "spantap export";

/// Has spans sent to a destination, or counts them.
pub(super) fn send(log: &SpanLog, live: &dyn Live, request: &SendLateRequest) -> Result<SendLateReport, Status> {
    let asked = request.spans.clone().unwrap_or_default().asked().map_err(Status::invalid_argument)?;
    let targets = live.targets();
    let Some(target) = targets.iter().find(|target| target.name == request.destination) else {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        let there_are =
            if names.is_empty() { "there is none".to_owned() } else { format!("there are: {}", names.join(", ")) };
        return Err(Status::not_found(format!("no destination is named `{}` ({there_are})", request.destination)));
    };
    if request.only_count {
        return late::count(log, target, &asked).map(|found| SendLateReport::new(0, found)).map_err(status);
    }
    let (id, found) = late::ask(log, target, &asked, ASKED_BY_COMMAND).map_err(status)?;
    tracing::info!(
        destination = target.name,
        request = id,
        "{} that {} left out {} sent on request",
        counted(found.queued, "span"),
        verb(found.queued, "was", "were"),
        verb(found.queued, "is", "are")
    );
    Ok(SendLateReport::new(id, found))
}

/// The spans that no destination got, or all.
pub(super) fn spans(
    log: SpanLog,
    live: &dyn Live,
    request: &LateSpans,
) -> Result<Response<ReceiverStream<Result<SpanBytes, Status>>>, Status> {
    let asked = request.asked().map_err(Status::invalid_argument)?;
    let targets = live.targets();
    let (sender, receiver) = mpsc::channel(CHANNEL_BLOCKS);
    tokio::task::spawn_blocking(move || {
        let send = |request: bytes::Bytes| sender.blocking_send(Ok(SpanBytes { request: request.to_vec() }));
        // A client that is gone needs no error.
        if let Err(error) = late::pick(&log, &targets, &asked, send) {
            let _ = sender.blocking_send(Err(status(error)));
        }
    });
    Ok(Response::new(ReceiverStream::new(receiver)))
}

fn status(error: LateError) -> Status {
    match error {
        LateError::Log(error) => super::server::internal(error),
        LateError::Unusable(message) => Status::invalid_argument(message),
    }
}
