//! Bodies through the scan: made ones here, those that real clients wrote in `fixtures/content`.

use super::*;

const ANTHROPIC: Target<'_> = Target { path: "/v1/messages", host: None, anthropic: true };

fn target(path: &str) -> Target<'_> {
    Target { path, host: None, anthropic: false }
}

fn asked_in(target: Target<'_>, body: &str, size: usize) -> Option<Asked> {
    let mut scan = Scan::request("POST", Media::Json, target).expect("JSON by POST");
    body.as_bytes().chunks(size).for_each(|bytes| scan.feed(bytes));
    match scan.finish() {
        Some(Content::Asked(asked)) => Some(asked),
        None => None,
        other => panic!("{other:?}"),
    }
}

/// However it is cut.
fn asked_of(target: Target<'_>, body: &str) -> Option<Asked> {
    let whole = asked_in(target, body, body.len());
    (1..body.len()).for_each(|size| assert_eq!(asked_in(target, body, size), whole, "{body} in pieces of {size}"));
    whole
}

fn answered_in(media: Media, pieces: &[(&str, u64)], size: usize) -> Answered {
    let mut scan = Scan::response(media).expect("a body to look at");
    for (bytes, gap) in pieces {
        bytes.as_bytes().chunks(size).for_each(|bytes| scan.feed(bytes));
        scan.skip(*gap);
    }
    match scan.finish() {
        Some(Content::Answered(answered)) => answered,
        None => Answered::default(),
        other => panic!("{other:?}"),
    }
}

fn answered(media: Media, body: &str) -> Answered {
    let whole = answered_in(media, &[(body, 0)], body.len());
    for size in 1..body.len() {
        assert_eq!(answered_in(media, &[(body, 0)], size), whole, "{body} in pieces of {size}");
    }
    whole
}

fn said(asked: Option<Asked>) -> String {
    let Some(asked) = asked else { return "nothing".to_owned() };
    let facts = asked.facts();
    let mut said = facts.name.clone().unwrap_or_default().into_owned();
    for (key, value) in &facts.attributes {
        if let crate::session::Value::String(value) = value {
            said.push_str(&format!(" {}={value}", key.rsplit_once('.').map_or(*key, |(_, last)| last)));
        }
    }
    said
}

fn check(target: Target<'_>, body: &str, expected: &str) {
    assert_eq!(said(asked_of(target, body)), expected, "{body}");
}

#[test]
fn operations_of_graphql_are_told_by_type_and_name() {
    let check = |body, expected| check(target("/any"), body, expected);
    check(
        r#"{"query":"query Books($n: Int) {\n  books(first: $n) { title } }","variables":{"n":1}}"#,
        "query type=query name=Books",
    );
    check(r#"{"operationName":"B","query":"query A {a} mutation B {b}"}"#, "mutation type=mutation name=B");
    check(r#"{"query":"query A {a} mutation B {b}","variables":null,"operationName":"A"}"#, "query type=query name=A");
    check(r#"{"query":"query A {a} mutation B {b}"}"#, "GraphQL Operation");
    check(r#"{"query":"{ a }","operationName":null,"extensions":{}}"#, "query type=query");
    check(r#"{"query":"query A {a}","operationName":"C"}"#, "GraphQL Operation name=C");
    check(r#"{"query":"query A { a(x: \"cut"#, "query type=query name=A evidence=inferred");
    check(r#"{"query":"query A { a }","variables":{"x":"cut"#, "query type=query name=A");
}

#[test]
fn methods_of_json_rpc_are_told_with_their_number() {
    let check = |body: &str, expected: &str| check(target("/any"), body, expected);
    let system = "name=jsonrpc";
    check(
        r#"{"jsonrpc":"2.0","method":"order.get","params":{"id":7},"id":12}"#,
        &format!("order.get {system} method=order.get system=jsonrpc version=2.0 id=12"),
    );
    check(
        r#"{"jsonrpc": "2.0", "method": "notify"}"#,
        &format!("notify {system} method=notify system=jsonrpc version=2.0"),
    );
    check(
        r#"{"id":"a text","method":"a b","jsonrpc":"2.0","params":[]}"#,
        &format!("jsonrpc {system} method=_OTHER system=jsonrpc version=2.0"),
    );
    check(
        r#"{"jsonrpc":"2.0","id":1234567890123456,"method":"x","params":{"a":"cut"#,
        &format!("x {system} method=x system=jsonrpc version=2.0"),
    );
}

#[test]
fn calls_of_models_are_told_where_path_header_and_body_agree() {
    check(
        target("/v1/chat/completions"),
        r#"{"messages":[{"role":"user","content":"hello","model":"no"}],"model":"gpt-4o-mini"}"#,
        "chat gpt-4o-mini name=chat model=gpt-4o-mini",
    );
    check(target("/v1/chat/completions"), r#"{"messages":[{"role":"user","content":"cut"#, "chat name=chat");
    check(target("/v1/completions"), r#"{"prompt":"x","model":"m"}"#, "text_completion m name=text_completion model=m");
    check(target("/v1/embeddings"), r#"{"input":["x"],"model":"m"}"#, "embeddings m name=embeddings model=m");
    check(target("/v1/responses"), r#"{"input":"x","model":"m"}"#, "chat m name=chat model=m");
    check(
        ANTHROPIC,
        r#"{"max_tokens":10,"messages":[{"role":"user","content":"x"}],"model":"claude-x"}"#,
        "chat claude-x name=chat model=claude-x",
    );
    let openai = Target { host: Some("api.openai.com"), ..target("/v1/embeddings") };
    check(openai, r#"{"input":"x","model":"a b"}"#, "nothing");
    check(openai, r#"{"input":"x","model":"m"}"#, "embeddings m name=embeddings name=openai model=m");
}

#[test]
fn what_is_only_alike_is_plain_http() {
    let check = |path, body| check(target(path), body, "nothing");
    for body in [
        r#"{"query":"shoes"}"#,
        r#"{"query":"query"}"#,
        r#"{"query":{"match":{"a":"b"}}}"#,
        r#"{"query":"{ a }","variables":[1]}"#,
        r#"{"query":"{ a }","operationName":1}"#,
        r#"[{"query":"{ a }"}]"#,
        r#"{"jsonrpc":"1.0","method":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","method":"x","params":1}"#,
        r#"{"jsonrpc":"2.0","method":"cut"#,
        r#"{"method":"x","params":[]}"#,
        r#"{"messages":[],"model":"m"}"#,
        r#"{"query":"{ a }"} {"#,
        "query { a }",
        "1",
    ] {
        check("/graphql", body);
    }
    check("/v1/chat/completions", r#"{"model":"m","input":"x"}"#);
    check("/v1/messages", r#"{"messages":[],"model":"m","max_tokens":1}"#);
    check("/v1/embeddings", r#"{"input":"x"}"#);
    check("/responses", r#"{"input":"x"}"#);
}

#[test]
fn a_name_that_was_cut_is_none() {
    check(target("/v1/chat/completions"), r#"{"messages":[],"model":"gpt-4"#, "chat name=chat");
    let long = format!(r#"{{"messages":[],"model":"{}"}}"#, "x".repeat(200));
    check(target("/v1/chat/completions"), &long, "chat name=chat");
}

#[test]
fn only_json_by_post_is_looked_at() {
    for (method, media) in [("GET", Media::Json), ("PUT", Media::Json), ("POST", Media::Other), ("POST", Media::Events)]
    {
        assert!(Scan::request(method, media, target("/")).is_none(), "{method} {media:?}");
    }
    let media = |text| Media::of(text);
    assert_eq!(media("application/json; charset=utf-8"), Media::Json);
    assert_eq!(media("Application/GraphQL-Response+JSON"), Media::Json);
    assert_eq!(media("text/event-stream"), Media::Events);
    for other in ["", "text/plain", "application/jsonx", "text/x+json", "+json", "application/x-ndjson"] {
        assert_eq!(media(other), Media::Other, "{other}");
    }
}

#[test]
fn tokens_and_model_are_those_that_the_response_states() {
    let said = answered(
        Media::Json,
        r#"{"id":"x","model":"gpt-4o-2024","choices":[{"message":{"content":"{\"usage\":1}"}}],
            "usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#,
    );
    assert_eq!(
        (said.model.as_deref(), said.input_tokens, said.output_tokens),
        (Some("gpt-4o-2024"), Some(9), Some(12))
    );
    let said = answered(
        Media::Json,
        r#"{"model":"claude","usage":{"input_tokens":5,"cache_read_input_tokens":20,"cache_creation_input_tokens":3,"output_tokens":2}}"#,
    );
    assert_eq!((said.input_tokens, said.output_tokens), (Some(28), Some(2)));
    let cut = answered(Media::Json, r#"{"model":"m","usage":{"prompt_tokens":9,"completion_tokens":1"#);
    assert_eq!((cut.model.as_deref(), cut.input_tokens, cut.output_tokens), (Some("m"), None, None));
    let hidden =
        answered_in(Media::Json, &[(r#"{"model":"m","x":""#, 9), (r#"","usage":{"prompt_tokens":9}}"#, 0)], 99);
    assert_eq!((hidden.model.as_deref(), hidden.input_tokens), (Some("m"), None));
    assert_eq!(answered(Media::Json, "<html>"), Answered::default());
}

const CHUNKS: [&str; 4] = [
    "data: {\"model\":\"m-1\",\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
    "data: {\"model\":\"m-1\",\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n",
    "data: {\"model\":\"m-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
];

#[test]
fn of_events_the_complete_ones_count() {
    let said = answered(Media::Events, &CHUNKS.concat());
    assert_eq!((said.model.as_deref(), said.input_tokens, said.output_tokens), (Some("m-1"), Some(7), Some(2)));
    let cut = answered(Media::Events, CHUNKS.concat().split("s\":2").next().expect("text"));
    assert_eq!((cut.model.as_deref(), cut.input_tokens, cut.output_tokens), (Some("m-1"), None, None));
    let hidden = answered_in(Media::Events, &[(&CHUNKS[0][..20], 300), (CHUNKS[2], 0)], 7);
    assert_eq!(hidden.input_tokens, None, "the rest of a line that a gap cut is no event's begin");
    let hidden = answered_in(Media::Events, &[(&CHUNKS[0][..20], 300), ("x\n\n", 0), (CHUNKS[2], 0)], 7);
    assert_eq!((hidden.model.as_deref(), hidden.output_tokens), (Some("m-1"), Some(2)));
    let stale = answered_in(Media::Events, &[(CHUNKS[2], 50)], 7);
    assert_eq!((stale.input_tokens, stale.output_tokens), (Some(7), None), "later ones may have said more");
}

#[test]
fn events_of_anthropic_and_of_openais_responses_are_read() {
    let anthropic = "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":\
        {\"input_tokens\":25,\"output_tokens\":1}}}\r\n\r\n";
    let begun = answered(Media::Events, anthropic);
    assert_eq!((begun.model.as_deref(), begun.input_tokens, begun.output_tokens), (Some("claude-x"), Some(25), None));
    let ended = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n";
    assert_eq!(answered(Media::Events, &format!("{anthropic}{ended}")).output_tokens, Some(15));
    let responses = "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"o\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n";
    let said = answered(Media::Events, responses);
    assert_eq!((said.model.as_deref(), said.input_tokens, said.output_tokens), (Some("o"), Some(3), Some(4)));
}

fn outcome(asked: &str, path: &str, media: Media, answer: &str) -> (Option<crate::session::Outcome>, String) {
    let asked = asked_of(target(path), asked).expect("known");
    let facts = asked.answer(&answered(media, answer), false);
    (facts.outcome.clone(), format!("{:?}", facts.attributes))
}

#[test]
fn what_a_body_says_of_failing_is_an_outcome() {
    use crate::session::Outcome::Error;
    let rpc = r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#;
    let (said, attributes) = outcome(
        rpc,
        "/",
        Media::Json,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}"#,
    );
    assert_eq!(said, Some(Error("-32601".into())));
    assert!(attributes.contains("rpc.response.status_code") && !attributes.contains("such"), "{attributes}");
    let of_rpc = |answer| outcome(rpc, "/", Media::Json, answer).0;
    assert_eq!(of_rpc(r#"{"jsonrpc":"2.0","id":1,"result":{"error":{"code":1}}}"#), None);
    assert_eq!(of_rpc(r#"{"error":{"code":1}}"#), None);
    let of_query = |answer| outcome(r#"{"query":"{a}"}"#, "/", Media::Json, answer).0;
    assert_eq!(of_query(r#"{"data":null,"errors":[{"message":"x"}]}"#), Some(Error("graphql_error".into())));
    assert_eq!(of_query(r#"{"errors":[{"message":"x"}]}"#), Some(Error("graphql_error".into())));
    assert_eq!(of_query(r#"{"errors":[{"message":"x"}],"data":{"a":null}}"#), None);
    assert_eq!(of_query(r#"{"errors":[],"data":null}"#), None);
    assert_eq!(of_query(r#"{"errors":[{"message":"cut"#), None);
    let of_chat =
        |answer: &str| outcome(r#"{"messages":[],"model":"m"}"#, "/chat/completions", Media::Events, answer).0;
    assert_eq!(of_chat(&CHUNKS.concat()), None);
    let failed =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n";
    assert_eq!(of_chat(failed), Some(Error("overloaded_error".into())));
    assert_eq!(of_chat("data: {\"error\":{\"type\":\"a text\"}}\n\n"), Some(Error("_OTHER".into())));
}

#[test]
fn a_body_is_looked_at_up_to_its_limit() {
    let mut scan = Scan::request("POST", Media::Json, target("/")).expect("JSON by POST");
    scan.feed(br#"{"x":""#);
    (0..BYTES_MAX / 1024).for_each(|_| scan.feed(&[b'x'; 1024]));
    scan.feed(br#"","query":"{ a }"}"#);
    assert_eq!(scan.finish(), None);
}
