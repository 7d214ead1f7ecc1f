//! What is put into records, and what becomes of a request of several.

use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::{
    super::{
        client::Client,
        fakes::{body, destination},
        format::{Format, samples},
        retry::{AgainKind, Outcome},
    },
    records::{Batch, batches},
    sending::Sending,
    verdict::Trouble,
};

fn span(trace: u8, number: u8) -> Span {
    Span { trace_id: vec![trace; 16], span_id: vec![number; 8], name: "x".repeat(1000), ..Span::default() }
}

fn request(spans: impl Iterator<Item = Span>) -> Vec<u8> {
    samples::of(vec![samples::text("service.name", "shop")], spans.collect()).encode_to_vec()
}

fn key(batch: &Batch, place: usize) -> String {
    let record = batch.encoded(0, rskafka::protocol::record::RecordBatchCompression::NoCompression, &[]);
    let rskafka::protocol::record::ControlBatchOrRecords::Records(records) = record.records else { panic!() };
    String::from_utf8(records[place].headers[0].value.clone()).unwrap()
}

#[test]
fn a_record_has_the_spans_of_a_trace_and_a_batch_has_a_bound() {
    let all = batches(&request((0..=254).flat_map(|n| [span(n, 1), span(n, 2)])), "key", Format::Otlp, 1).unwrap();
    // 255 traces of two spans of 1 kB each.
    assert!(all.len() == 2 && all[0].records.len() > 200, "{}", all.len());
    assert!(all.iter().flat_map(|batch| &batch.records).all(|record| record.spans == 2));
    assert_eq!(all.iter().map(Batch::spans).sum::<u64>(), 510);
    assert_eq!(key(&all[0], 1), format!("key/{}", "01".repeat(16)));
    let spread = batches(&request((0..=254).map(|n| span(n, 1))), "key", Format::Otlp, 8).unwrap();
    assert_eq!(spread.iter().map(|batch| batch.partition).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn what_is_too_large_is_halved_down_to_a_span_and_the_rest_is_delivered() {
    let bytes = request([span(17, 1), span(17, 2), span(17, 3), span(34, 4)].into_iter());
    let mut sending = Sending::new(batches(&bytes, "key", Format::Otlp, 1).unwrap(), Format::Otlp);
    let mut ids = Vec::new();
    loop {
        let round = sending.round();
        let [batch] = &round[..] else { break };
        let has_poison = batch.records.iter().any(|record| record.request.windows(8).any(|id| id == [2; 8]));
        ids.push(key(batch, 0));
        let answer = if has_poison { Err(Trouble::TooLarge("too large".into())) } else { Ok(()) };
        assert_eq!(sending.settle(vec![(batch.clone(), answer)]), None);
    }
    let Outcome::Partly { refused, spans, cause } = sending.outcome() else { panic!() };
    assert_eq!((spans, cause.as_str()), (1, "too large"));
    assert_eq!(agent_core::wire::spans(&refused).map(|span| span.unwrap().span_id[0]).collect::<Vec<_>>(), [2]);
    let trace = "11".repeat(16);
    let parts = ["", "", "/0", "/1", "/1/0", "/1/1"].map(|end| format!("key/{trace}{end}"));
    assert_eq!(ids, [&parts[..], &[format!("key/{}", "22".repeat(16))]].concat());
}

#[test]
fn what_is_left_waits_for_the_partition_that_is_away() {
    let bytes = request((0..20).map(|n| span(n, n)));
    let mut sending = Sending::new(batches(&bytes, "key", Format::Otlp, 2).unwrap(), Format::Otlp);
    let round = sending.round();
    let again = Trouble::Again(AgainKind::Unavailable, "away".into());
    let answers =
        round.into_iter().map(|batch| (batch.clone(), if batch.partition == 0 { Ok(()) } else { Err(again.clone()) }));
    assert_eq!(sending.settle(answers.collect()), Some(again.into_outcome()));
    let left = sending.round();
    assert_eq!(left.iter().map(|batch| batch.partition).collect::<Vec<_>>(), [1]);
    let never = Err(Trouble::Never("no".into()));
    assert_eq!(sending.settle(vec![(left[0].clone(), never)]), None);
    let expected = left[0].spans();
    assert!(matches!(sending.outcome(), Outcome::Partly { spans, .. } if spans == expected));
}

#[tokio::test]
async fn nobody_and_somebody_else_are_told_apart() {
    let client = Client::new(&destination("kafka://127.0.0.1:1/spans")).unwrap();
    let Outcome::Again { kind, cause, .. } = client.send(body(), "key").await else { panic!() };
    assert!(kind == AgainKind::Unavailable && cause.contains("nothing listens there"), "{cause}");
    let address = super::super::fakes::raw(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let client = Client::new(&destination(&format!("kafka://{address}/spans"))).unwrap();
    let Outcome::Again { cause, .. } = client.send(body(), "key").await else { panic!() };
    assert!(cause.contains("credentials"), "{cause}");
    assert!(matches!(
        Sending::new(batches(&[], "key", Format::Otlp, 3).unwrap(), Format::Otlp).outcome(),
        Outcome::Delivered { rejected: 0, .. }
    ));
    assert!(batches(&Bytes::from_static(b"\xff"), "key", Format::Otlp, 3).is_err());
}
