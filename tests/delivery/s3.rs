//! Objects in a bucket: moto takes them and fails, boto3 reads them, botocore checks their signatures.

use std::time::Duration;

use spantap_tests::{clock::pace, temp::TempDir};

use crate::{
    RATE,
    judge::{Judge, export_test, wait_for_trouble},
    rig::Relay,
    sender::Sender,
};

#[test]
fn a_bucket_has_every_span_in_signed_objects_that_are_the_same_when_they_are_sent_twice() {
    let folder = TempDir::new("s3");
    folder.write("secret", "hunter3\n");
    folder.write("token", "session\n");
    let s3 = Judge::start("venv-moto", "s3.py", &[]);
    s3.ask("key open/sesame+");
    let file = |name: &str| format!("{{ file: '{}' }}", folder.join(name).display());
    folder.write("id", "key\n");
    let to = format!(
        "name: s3, url: 's3://traces/agents', s3: {{ endpoint: '{}', region: eu-west-1 }}, compression: gzip, \
         auth: {{ access_key: {{ id: {}, secret: {}, session_token: {} }} }}, headers: {{ x-amz-storage-class: STANDARD_IA }}, \
         timeout: 2s, retry: {{ initial: 20ms, max: 200ms }}, batch: {{ age: 50ms }}",
        s3.ask("url").as_str().expect("text"),
        file("id"),
        file("secret"),
        file("token")
    );
    let relay = Relay::start(&[to], "");
    let sender = Sender::start(relay.address(), RATE / 2, RATE);
    wait_for_trouble(&relay, "s3", &["SignatureDoesNotMatch", "`auth.access_key`"]);
    folder.write("secret", "open/sesame+\n");
    wait_for_trouble(&relay, "s3", &["NoSuchBucket", "create the bucket"]);
    s3.ask("create");
    for (failure, parts) in [
        ("503 SlowDown 3", ["SlowDown", "503"]),
        ("500 InternalError 2", ["InternalError", "500"]),
        ("403 AccessDenied 2", ["AccessDenied", "s3:PutObject"]),
    ] {
        pace(Duration::from_millis(100));
        s3.ask(&format!("fail {failure}"));
        wait_for_trouble(&relay, "s3", &parts);
    }
    s3.ask("fail 400 EntityTooLarge 3");
    let acknowledged = sender.finish();
    relay.drained("s3");
    let twice = s3.check("s3", acknowledged, &relay);
    let accounts = relay.destination("s3");
    assert_eq!((twice, &accounts["dead"], &accounts["dropped"]), (0, &0.into(), &0.into()), "{accounts}");
    for secret in ["sesame", "hunter3"] {
        assert!(!relay.messages().contains(secret), "{}", relay.messages());
    }
    let (is_taken, said) = export_test(&relay, "s3");
    assert!(is_taken, "{said}");
    println!("s3: {} objects", s3.ask("puts"));
}
