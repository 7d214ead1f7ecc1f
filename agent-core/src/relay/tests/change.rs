//! What is added, renamed and sampled.

use super::*;

fn resource_attributes(relayed: &Relayed) -> Vec<KeyValue> {
    decode(relayed.kept.as_ref().unwrap()).resource_spans[0].resource.clone().unwrap().attributes
}

fn enriching() -> RelayConfig {
    let attributes = [("cloud.region", "eu-1"), ("service.name", "unknown")];
    let resource_attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    RelayConfig { resource_attributes, ..RelayConfig::default() }
}

#[test]
fn resource_attributes_are_added_where_they_are_absent() {
    let relayed = accept(enriching(), &request(vec![span(vec![])]));
    assert_eq!(resource_attributes(&relayed), texts(&[("service.name", "shop"), ("cloud.region", "eu-1")]));
    assert!(relayed.enriched);
    let mut complete = request(vec![span(vec![])]);
    complete.resource_spans[0].resource.as_mut().unwrap().attributes =
        texts(&[("cloud.region", ""), ("service.name", "x")]);
    let relayed = accept(enriching(), &complete);
    assert_eq!((relayed.kept.unwrap().into_bytes(), relayed.enriched), (complete.encode_to_vec().into(), false));
}

#[test]
fn a_resource_that_is_missing_is_made() {
    let mut bare = request(vec![span(vec![])]);
    bare.resource_spans[0].resource = None;
    let relayed = accept(enriching(), &bare);
    assert_eq!(resource_attributes(&relayed), texts(&[("cloud.region", "eu-1"), ("service.name", "unknown")]));
    assert_eq!(first_span(&relayed), span(vec![]));
}

#[test]
fn a_resource_in_pieces_behind_its_spans_is_one() {
    let whole = request(vec![span(vec![])]);
    let spans_only = ResourceSpans { resource: None, ..whole.resource_spans[0].clone() };
    let piece = |attributes| ResourceSpans {
        resource: Some(Resource { attributes, ..Default::default() }),
        ..ResourceSpans::default()
    };
    let pieces = [
        spans_only.encode_to_vec(),
        piece(texts(&[("a", "1")])).encode_to_vec(),
        piece(texts(&[("service.name", "shop"), (TENANT, "evil")])).encode_to_vec(),
    ];
    let mut bytes = Vec::new();
    prost::encoding::bytes::encode(1, &pieces.concat(), &mut bytes);
    let relayed = Relay::new(enriching()).unwrap().accept_from(&bytes.into(), Some("acme"), NOW).unwrap();
    let expected = texts(&[("a", "1"), ("cloud.region", "eu-1"), (TENANT, "acme"), ("service.name", "shop")]);
    assert_eq!(resource_attributes(&relayed), expected);
}

#[test]
fn a_tenant_is_who_it_proved_to_be() {
    let relay = Relay::new(RelayConfig::default()).unwrap();
    let check = |said: &[&str], proved: Option<&str>, after: &[&str], enriched: bool| {
        let mut before = request(vec![span(vec![])]);
        let tenants = |names: &[&str]| names.iter().map(|name| pair(TENANT, text(name))).collect::<Vec<_>>();
        before.resource_spans[0].resource.as_mut().unwrap().attributes = tenants(said);
        let relayed = relay.accept_from(&before.encode_to_vec().into(), proved, NOW).unwrap();
        assert_eq!(resource_attributes(&relayed), tenants(after));
        assert_eq!(relayed.enriched, enriched);
    };
    check(&[], Some("acme"), &["acme"], true);
    check(&["acme"], Some("acme"), &["acme"], false);
    check(&["evil"], Some("acme"), &["acme"], true);
    check(&["acme", "evil"], Some("acme"), &["acme"], true);
    check(&["chain"], None, &["chain"], false);
}

fn renaming(keys: &[(&str, &str)], semantic_conventions: bool) -> RelayConfig {
    let keys = keys.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    RelayConfig { renames: Renames { semantic_conventions, keys }, ..RelayConfig::default() }
}

#[test]
fn old_keys_become_new_ones_unless_those_are_there() {
    let before =
        texts(&[("http.method", "GET"), ("net.peer.name", "h"), ("http.url", "/a"), ("x", "1"), ("url.full", "/b")]);
    let after = texts(&[("http.request.method", "GET"), ("server.address", "h"), ("x", "1"), ("url.full", "/b")]);
    check(renaming(&[], true), before.clone(), &after, 0);
    check(renaming(&[], false), before.clone(), &before, 0);
    check(renaming(&[("x", "y")], false), texts(&[("x", "1"), ("x", "2")]), &texts(&[("y", "1")]), 0);
    check(renaming(&[("a", "c"), ("b", "c")], false), texts(&[("b", "1"), ("a", "2")]), &texts(&[("c", "1")]), 0);
}

#[test]
fn the_peer_of_a_server_is_its_client() {
    let mut server = span(texts(&[("net.peer.name", "h"), ("net.host.name", "me")]));
    server.kind = 2;
    let relayed = accept(renaming(&[], true), &request(vec![server]));
    assert_eq!(first_span(&relayed).attributes, texts(&[("client.address", "h"), ("server.address", "me")]));
}

#[test]
fn a_renamed_value_is_still_looked_at() {
    let before =
        texts(&[("http.url", "/a?b=c"), ("db.statement", "SELECT 1 FROM t"), ("db.system", "mysql"), ("to", "a@b.de")]);
    let after = texts(&[
        ("url.full", "/a?b={value}"),
        ("db.query.text", "SELECT ? FROM t"),
        ("db.system.name", "mysql"),
        ("mail", "{email}"),
    ]);
    check(renaming(&[("to", "mail")], true), before, &after, 3);
}

#[test]
fn nested_keys_are_not_renamed() {
    let nested = || vec![pair("x", pairs(texts(&[("http.method", "GET")])))];
    check(renaming(&[], true), nested(), &nested(), 0);
}

fn sampling(probability: f64, keep_errors: bool) -> RelayConfig {
    let threshold = Threshold::from_probability(probability);
    RelayConfig { sampling: Some(HeadSampling { threshold, keep_errors }), ..RelayConfig::default() }
}

/// Spans of 64 traces, evenly spread over the values of randomness.
fn spread() -> Vec<Span> {
    let id = |number: u8| [&[7; 9][..], &[number * 4], &[0; 6]].concat();
    (0..64).map(|number| Span { trace_id: id(number), ..span(vec![]) }).collect()
}

#[test]
fn what_is_not_sampled_stays_local_and_nothing_is_lost() {
    let spans = spread();
    let relayed = accept(sampling(0.25, false), &request(spans.clone()));
    let of = |batch: &Option<SafeBatch>| decode(batch.as_ref().unwrap()).resource_spans[0].scope_spans[0].spans.clone();
    let kept: Vec<_> = spans[48..].iter().map(|span| Span { trace_state: "ot=th:c".into(), ..span.clone() }).collect();
    assert_eq!(of(&relayed.kept), kept);
    assert_eq!(of(&relayed.local), spans[..48]);
    assert_eq!(relayed.local.unwrap().span_count(), 48);
}

#[test]
fn two_samplers_count_as_the_stricter_one() {
    let first = accept(sampling(0.5, false), &request(spread())).kept.unwrap();
    let second = Relay::new(sampling(0.25, false)).unwrap().accept(first.bytes(), NOW).unwrap();
    assert_eq!(second.kept, accept(sampling(0.25, false), &request(spread())).kept);
    let third = Relay::new(sampling(0.5, false)).unwrap().accept(second.kept.as_ref().unwrap().bytes(), NOW).unwrap();
    assert_eq!((third.kept, third.local), (second.kept, None));
}

#[test]
fn errors_are_kept_and_count_as_they_did() {
    let mut spans = spread();
    spans.iter_mut().for_each(|span| span.status = Some(Status { message: String::new(), code: 2 }));
    spans[63].trace_state = "ot=th:8,x=y".into();
    let relayed = accept(sampling(0.0, true), &request(spans.clone()));
    assert_eq!((decode(relayed.kept.as_ref().unwrap()), relayed.local), (request(spans), None));
}

#[test]
fn both_batches_are_redacted_and_checked() {
    let mut spans: Vec<_> =
        spread().into_iter().map(|span| Span { attributes: texts(&[("password", "x")]), ..span }).collect();
    spans[0].span_id = vec![];
    spans[1].end_time_unix_nano = 0;
    let relayed = accept(sampling(0.5, false), &request(spans));
    assert_eq!((relayed.rejected, relayed.skewed, relayed.redacted), (1, 1, 63));
    let counts = [&relayed.kept, &relayed.local].map(|batch| batch.as_ref().unwrap().span_count());
    assert_eq!(counts, [32, 31]);
}

#[test]
fn a_resource_without_spans_left_goes_with_them() {
    let mut two = request(spread()[..1].to_vec());
    two.resource_spans.extend(request(spread()[63..].to_vec()).resource_spans);
    let relayed =
        accept(RelayConfig { resource_attributes: enriching().resource_attributes, ..sampling(0.5, false) }, &two);
    let resources = |batch: &Option<SafeBatch>| decode(batch.as_ref().unwrap()).resource_spans.len();
    assert_eq!((resources(&relayed.kept), resources(&relayed.local)), (1, 1));
}

/// The request with the spans that `stays` is true of; a scope or resource that has lost all of its spans is left out.
fn only(request: &ExportTraceServiceRequest, stays: impl Fn(&Span) -> bool) -> ExportTraceServiceRequest {
    let mut request = request.clone();
    request.resource_spans.retain_mut(|resource| {
        let before: usize = resource.scope_spans.iter().map(|scope| scope.spans.len()).sum();
        resource.scope_spans.retain_mut(|scope| {
            let before = scope.spans.len();
            scope.spans.retain(&stays);
            before == 0 || !scope.spans.is_empty()
        });
        before == 0 || resource.scope_spans.iter().any(|scope| !scope.spans.is_empty())
    });
    request
}

#[test]
fn each_of_two_batches_is_what_a_request_of_its_spans_alone_becomes() {
    let mut random = agent_protocol::fuzzing::Random::new(3);
    let half = HeadSampling { threshold: Threshold::from_probability(0.5), keep_errors: true };
    let (alone, both) = (enriching(), RelayConfig { sampling: Some(half), ..enriching() });
    for _ in 0..500 {
        let mut one = || {
            let secrets = texts(&[("password", "x"), ("to", "jane@example.com"), ("n", "1")]);
            let times = if random.below(8) == 0 { (1, 2) } else { (NOW.0, NOW.0) };
            let id = if random.below(8) == 0 { 0 } else { 1 };
            let random = [0x10, 0xf0][random.below(2)];
            let trace_id = [&[id; 9][..], &[random * id], &[0; 6]].concat();
            let (start_time_unix_nano, end_time_unix_nano) = times;
            Span { trace_id, start_time_unix_nano, end_time_unix_nano, ..span(secrets) }
        };
        let mut all = request(vec![]);
        for number in 0..3 {
            let mut resource = request(vec![]).resource_spans.remove(0);
            resource.resource.as_mut().unwrap().attributes.extend(texts(&[("token", "x"), ("n", "a@b.de")]));
            resource.scope_spans = (0..2)
                .map(|scope| {
                    let spans = (0..(number + scope) % 4).map(|_| one()).collect();
                    request(spans).resource_spans.remove(0).scope_spans.remove(0)
                })
                .collect();
            all.resource_spans.push(resource);
        }
        let is_valid = |span: &Span| span.trace_id != [0; 16];
        let is_local = |span: &Span| is_valid(span) && span.trace_id[9] < 0x80;
        let relayed = accept(both.clone(), &all);
        let local = accept(alone.clone(), &only(&all, is_local));
        let kept = accept(both.clone(), &only(&all, |span| is_valid(span) && !is_local(span)));
        assert_eq!((&relayed.kept, &relayed.local), (&kept.kept, &local.kept));
        assert_eq!((kept.local, local.local), (None, None));
        assert_eq!(relayed.skewed, kept.skewed + local.skewed);
        let invalid =
            all.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
        assert_eq!(relayed.rejected, invalid.filter(|span| !is_valid(span)).count() as u64);
    }
}

#[test]
fn what_is_left_of_a_large_request_does_not_keep_its_room() {
    let relay = Relay::new(sampling(0.01, false)).unwrap();
    let spans: Vec<Span> = (0..2_000).map(|number| Span { trace_id: vec![number as u8; 16], ..span(vec![]) }).collect();
    let bytes = request(spans).encode_to_vec();
    let relayed = relay.accept(&bytes, NOW).unwrap();
    let kept = relayed.kept.unwrap().into_bytes();
    assert!(kept.len() * 20 < bytes.len(), "{} of {}", kept.len(), bytes.len());
    let length = kept.len();
    assert!(Vec::from(kept).capacity() <= 2 * length);
}
