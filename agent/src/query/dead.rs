//! Answers about dead letters, and settles them.
//!
//! In: requests that the query server has checked. Out: letters, one at a time, and how many were settled. Touches the letters'
//! database only, on blocking threads.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{
    api::{DeadLettersRequest, LetterView, SettleReport, SettleRequest, Settlement},
    server::internal,
};
use crate::log::{DeadLetters, LogError, Which};

/// Letters on the way to a client. One with its spans may be as large as a block of the log.
const CHANNEL_LETTERS: usize = 4;
/// Most letters of an answer.
const LETTERS_MAX: u64 = 1_000_000;

/// Letters, oldest first.
pub(super) fn list(
    letters: DeadLetters,
    request: DeadLettersRequest,
) -> Response<ReceiverStream<Result<LetterView, Status>>> {
    let (sender, receiver) = mpsc::channel(CHANNEL_LETTERS);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(&letters, request, &sender) {
            // A client that is gone needs no error.
            let _ = sender.blocking_send(Err(internal(error)));
        }
    });
    Response::new(ReceiverStream::new(receiver))
}

fn send(
    letters: &DeadLetters,
    request: DeadLettersRequest,
    sender: &mpsc::Sender<Result<LetterView, Status>>,
) -> Result<(), LogError> {
    let limit = if request.limit == 0 { LETTERS_MAX } else { request.limit.min(LETTERS_MAX) };
    let which = Which::from(request.which.unwrap_or_default());
    for letter in letters.list(&which, usize::try_from(limit).unwrap_or(usize::MAX))? {
        let letter = if request.with_spans { letters.get(letter.id)? } else { Some(letter) };
        // Delivered or dropped meanwhile.
        let Some(letter) = letter else { continue };
        if sender.blocking_send(Ok(letter.into())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Replays or drops letters.
pub(super) fn settle(letters: &DeadLetters, request: SettleRequest) -> Result<Response<SettleReport>, Status> {
    let settlement = request.settlement();
    let which = Which::from(request.which.unwrap_or_default());
    let count = match settlement {
        Settlement::Replay => letters.replay(&which),
        Settlement::Drop => letters.forget(&which).map(|(letters, _)| letters),
    };
    Ok(Response::new(SettleReport { letters: count.map_err(internal)? }))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crate::{
        log::{Letter, LogConfig, SpanLog, block::PAYLOAD_BYTES_MAX},
        query::{
            api::{ConnView, DeadLettersRequest, Live, SelfReport, StatusReport},
            client::Client,
            server::QuerySocket,
        },
    };

    struct Nothing;

    impl Live for Nothing {
        fn status(&self) -> StatusReport {
            StatusReport::default()
        }

        fn connections(&self) -> Result<Vec<ConnView>, String> {
            Ok(Vec::new())
        }

        fn measure(&self, _window: Duration) -> SelfReport {
            SelfReport::default()
        }
    }

    #[tokio::test]
    async fn a_letter_as_large_as_a_block_may_be_is_given_to_clients() {
        let folder = tempfile::tempdir().unwrap();
        let log = SpanLog::open(&folder.path().join("data"), LogConfig::default()).unwrap();
        let letter = Letter {
            destination: "backend".into(),
            key: "1".into(),
            spans: 1,
            payload: vec![7; PAYLOAD_BYTES_MAX],
            ..Letter::default()
        };
        log.dead_letters().put(&letter).unwrap();
        let path = folder.path().join("s.sock");
        let socket = QuerySocket::bind(&path, None).unwrap();
        let serving = tokio::spawn(socket.serve(log, Arc::new(Nothing), std::future::pending()));
        let request = DeadLettersRequest { with_spans: true, ..DeadLettersRequest::default() };
        let mut sizes = Vec::new();
        let keep = |letter: crate::query::api::LetterView| {
            sizes.push(letter.request.len());
            Ok(())
        };
        Client::connect(&path).await.unwrap().dead_letters(request, keep).await.unwrap().unwrap();
        assert_eq!(sizes, [PAYLOAD_BYTES_MAX]);
        serving.abort();
    }
}
