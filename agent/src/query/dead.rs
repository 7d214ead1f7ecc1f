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
