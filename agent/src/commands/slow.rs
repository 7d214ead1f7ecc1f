//! `spantap slow`: the slowest spans, each with the segment that took most of its time.

use std::path::Path;

use super::{
    Done, Output, answer, request,
    spans::{NO_MATCH, header, row},
    text,
};
use crate::{
    cli::SlowArgs,
    query::{
        api::{Order, SpanView, SpansRequest, hex},
        client::Client,
    },
};

pub(super) async fn slow(args: &SlowArgs, output: &mut Output) -> Done {
    let all = SpansRequest { limit: args.limit, order: Order::Slowest.into(), ..request(&args.filter) };
    let mut client = Client::connect(&args.read.socket).await?;
    // What nobody selected may wait for as long as it likes.
    let selected = SpansRequest { selected_only: !args.unselected, ..all.clone() };
    let mut spans = client.spans(selected).await?.all().await?;
    if spans.is_empty() && !args.unselected {
        spans = client.spans(all).await?.all().await?;
    }
    // Of all of them the agent sends each as it finds it.
    if args.limit == 0 {
        spans.sort_by(|one, other| (other.duration_ns, &other.span_id).cmp(&(one.duration_ns, &one.span_id)));
    }
    answer(&spans, args.read.json, |spans, colour| render(spans, &args.read.socket, colour), output)
}

fn render(spans: &[SpanView], socket: &Path, colour: bool) -> String {
    let Some(slowest) = spans.first() else {
        return NO_MATCH.to_owned();
    };
    let mut out = text::dim(&header(), colour) + "\n";
    for span in spans {
        out.push_str(&row(span, colour));
        out.push('\n');
    }
    let why = text::ask(&format!("spantap why {}", hex(&slowest.span_id)), socket);
    let hint = format!("where the time of the slowest went: {why}\n");
    out.push_str(&text::dim(&hint, colour));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::SOCKET_DEFAULT;
    use crate::commands::fixtures;

    #[test]
    fn the_slowest_is_followed_by_what_to_ask_next() {
        fixtures::check_golden("slow.txt", &render(&fixtures::trace(), Path::new(SOCKET_DEFAULT), false));
    }

    #[test]
    fn no_match_says_what_to_do() {
        assert!(render(&[], Path::new(SOCKET_DEFAULT), false).contains("--follow"));
    }
}
