//! HTTP that is more than HTTP: records in, spans out.

use agent_core::{
    span::{Status, Value},
    testing::{End, Kernel, attribute},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn what_is_more_than_http_is_named_so() {
    const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/eu-central-1";
    let request = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n").into_bytes();
    let put = request("PUT /shop/orders/4711", &format!("{SIGNED}/s3/aws4_request, Signature=0\r\n"));
    let queue = request(
        "POST /",
        &format!("{SIGNED}/sqs/aws4_request, Signature=0\r\nX-Amz-Target: AmazonSQS.SendMessage\r\n"),
    );
    let search = request("POST /orders/_search?q=secret", "");
    let found = [b"HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\n".as_slice(), &OK[17..]].concat();
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    for (index, (request, response)) in
        [(&put, OK), (&queue, OK), (&search, &found), (&search, OK)].into_iter().enumerate()
    {
        let at = 2_000_000 + index as u64 * 1_000_000;
        client.write(&mut kernel, at, at + 30, request);
        client.read_at(&mut kernel, at + 500, response);
    }
    let run = kernel.run();
    let names: Vec<&str> = run.spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["PUT /shop/orders/{id}", "sqs/SendMessage", "search orders", "POST /orders/_search"]);
    let said = |index: usize, key| match attribute(&run.spans[index], key) {
        Some(Value::String(text)) => Some(text.to_string()),
        _ => None,
    };
    let keys = ["rpc.system.name", "rpc.method", "rpc.service", "cloud.region"];
    assert_eq!(keys.map(|key| said(0, key)).map(Option::unwrap_or_default), ["aws-api", "", "s3", "eu-central-1"]);
    assert_eq!(said(1, "rpc.method").as_deref(), Some("sqs/SendMessage"));
    let keys = ["db.system.name", "db.operation.name", "db.collection.name"];
    assert_eq!(keys.map(|key| said(2, key)).map(Option::unwrap_or_default), ["elasticsearch", "search", "orders"]);
    assert_eq!(said(3, "db.system.name"), None, "a server that does not say so");
}

fn post(path: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: application/json\r\n{fields}");
    format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn json(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[test]
fn what_bodies_ask_for_names_spans_and_what_they_answer_is_their_status() {
    let query = post("/graphql", "", r#"{"query":"query Books { books }"}"#);
    let call = post("/rpc/4711", "", r#"{"jsonrpc":"2.0","method":"order.get","params":{"secret":1},"id":7}"#);
    let chat = post("/v1/chat/completions", "", r#"{"model":"m-1","messages":[{"role":"user","content":"secret"}]}"#);
    let search = post("/search/4711", "", r#"{"query":"secret shoes"}"#);
    let usage = r#"{"model":"m-1-0601","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}"#;
    let exchanges = [
        (&query, json("200 OK", r#"{"data":{"books":[]}}"#)),
        (&query, json("200 OK", r#"{"data":null,"errors":[{"message":"secret"}]}"#)),
        (&call, json("200 OK", r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"secret"}}"#)),
        (&call, json("200 OK", r#"{"jsonrpc":"2.0","id":7,"result":"secret"}"#)),
        (&chat, json("200 OK", usage)),
        (&chat, json("429 Too Many Requests", r#"{"error":{"type":"tokens","message":"secret"}}"#)),
        (&search, json("200 OK", r#"{"errors":[1],"usage":{"prompt_tokens":1}}"#)),
    ];
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    for (index, (request, response)) in exchanges.iter().enumerate() {
        let at = 2_000_000 + index as u64 * 1_000_000;
        client.write(&mut kernel, at, at + 30, request);
        client.read_at(&mut kernel, at + 500, response);
    }
    let run = kernel.run();
    let text = |index: usize, key| match attribute(&run.spans[index], key) {
        Some(Value::String(text)) => text.to_string(),
        Some(other) => format!("{other:?}"),
        None => "-".to_owned(),
    };
    let told: Vec<_> = (0..run.spans.len())
        .map(|index| format!("{} {:?} {}", run.spans[index].name, run.spans[index].status, text(index, "error.type")))
        .collect();
    let expected = [
        "query Ok -",
        "query Error graphql_error",
        "order.get Error -32601",
        "order.get Ok -",
        "chat m-1 Ok -",
        "chat m-1 Error 429",
        "POST /search/{id} Ok -",
    ];
    assert_eq!(told, expected);
    let keys = ["graphql.operation.type", "graphql.operation.name"];
    assert_eq!(keys.map(|key| text(0, key)), ["query", "Books"]);
    let keys = ["rpc.system.name", "rpc.method", "jsonrpc.request.id", "rpc.response.status_code"];
    assert_eq!(keys.map(|key| text(2, key)), ["jsonrpc", "order.get", "7", "-32601"]);
    let keys =
        ["gen_ai.provider.name", "gen_ai.response.model", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"];
    assert_eq!(keys.map(|key| text(4, key)), ["openai", "m-1-0601", "Int(9)", "Int(12)"]);
    assert!(!format!("{:?}", run.spans).contains("secret"), "{:#?}", run.spans);
    assert_eq!(run.whole.len(), 1, "of calls of models all is wanted");
}

/// As OpenAI's client does: it closes once it has read that all is said, before the end of the body, and so resets.
#[test]
fn a_stream_of_a_model_that_has_said_all_is_no_error_when_its_reader_closes() {
    let chat = post("/v1/chat/completions", "", r#"{"model":"m-1","stream":true,"messages":[{"role":"user"}]}"#);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let event = |data: &str| format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8);
    let usage = event(r#"{"model":"m-1-0601","usage":{"prompt_tokens":9,"completion_tokens":12}}"#);
    for (last, expected) in [("[DONE]", (Status::Ok, None)), ("{}", (Status::Error, Some("connection_reset")))] {
        let (mut kernel, mut client) = (Kernel::default(), End::client());
        client.open(&mut kernel, 1_000_000);
        client.write(&mut kernel, 2_000_000, 2_000_030, &chat);
        client.read_at(&mut kernel, 2_000_500, [head, &usage].concat().as_bytes());
        client.read_at(&mut kernel, 2_000_900, event(last).as_bytes());
        client.reset(&mut kernel, 2_050_000);
        let run = kernel.run();
        let span = &run.spans[0];
        let text = |key| attribute(span, key).map(|value| format!("{value:?}"));
        assert_eq!(span.status, expected.0, "{last}: {span:#?}");
        assert_eq!(text("error.type").is_some_and(|said| said.contains("connection_reset")), expected.1.is_some());
        let usage = ["gen_ai.response.model", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"].map(text);
        assert!(usage[0].as_ref().is_some_and(|model| model.contains("m-1-0601")), "{usage:?}");
        assert_eq!(usage[1..], [Some("Int(9)".to_owned()), Some("Int(12)".to_owned())], "{last}");
        let until_read = span.duration_ns < 1_000_000;
        assert_eq!(until_read, last == "[DONE]", "{}", span.duration_ns);
        assert!(text("spantap.boundary.evidence").is_some_and(|said| said.contains("inferred")), "{span:#?}");
    }
}

#[test]
fn a_request_that_upgrades_to_http2_is_answered_by_stream_1() {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // HEADERS with END_STREAM: `:status: 404`; `:method: GET`, `:scheme: http`, `:path: /`; `:status: 200`.
    let headers = |stream: u8, block: &[u8]| [&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, stream], block].concat();
    let ask = b"GET /order/4711?x=1 HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    for together in [true, false] {
        let (mut kernel, mut client) = (Kernel::default(), End::client());
        client.open(&mut kernel, 1_000_000);
        client.write(&mut kernel, 2_000_000, 2_000_030, ask);
        let answer = [SETTINGS, &headers(1, b"\x8d")].concat();
        if together {
            client.read_at(&mut kernel, 2_000_500, &[agreed.as_slice(), &answer].concat());
            client.write(&mut kernel, 2_000_600, 2_000_630, &[PREFACE, SETTINGS].concat());
        } else {
            client.read_at(&mut kernel, 2_000_500, agreed);
            client.write(&mut kernel, 2_000_600, 2_000_630, &[PREFACE, SETTINGS].concat());
            client.read_at(&mut kernel, 2_000_900, &answer);
        }
        client.write(&mut kernel, 3_000_000, 3_000_030, &headers(3, b"\x82\x86\x84"));
        client.read_at(&mut kernel, 3_000_500, &headers(3, b"\x88"));
        let run = kernel.run();
        let told: Vec<_> = run
            .spans
            .iter()
            .map(|span| {
                (span.name.as_str(), span.protocol.name(), attribute(span, "http.response.status_code").cloned())
            })
            .collect();
        let expected = [("GET /order/{id}", "http2", Some(Value::Int(404))), ("GET /", "http2", Some(Value::Int(200)))];
        assert_eq!(told, expected, "together: {together}: {:#?}", run.losses);
        assert_eq!(attribute(&run.spans[0], "spantap.http.upgraded"), Some(&Value::Bool(true)));
        assert_eq!(run.spans[0].status, Status::Error);
        let duration_us = run.spans[0].duration_ns / 1000;
        assert!((500..2_000).contains(&duration_us), "{duration_us}: {:#?}", run.spans[0]);
    }
}
