//! HTTP that is more than HTTP: records in, spans out.

use agent_core::{
    span::Value,
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
