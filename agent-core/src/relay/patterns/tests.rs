use super::*;

fn redacted(text: &str) -> (String, usize) {
    let mut out = Vec::new();
    match Patterns::new().redact(text.as_bytes(), &mut out) {
        0 => {
            assert!(out.is_empty());
            (text.to_owned(), 0)
        }
        count => (String::from_utf8(out).unwrap(), count),
    }
}

fn check(text: &str, expected: &str) {
    let (once, count) = redacted(text);
    assert_eq!(once, expected);
    assert_eq!(count > 0, text != expected);
    assert_eq!(redacted(&once), (once, 0), "what is redacted stays as it is");
}

fn stays(text: &str) {
    check(text, text);
}

#[test]
fn card_numbers() {
    check("4111111111111111", "{card}");
    check("paid with 4111 1111 1111 1111.", "paid with {card}.");
    check("5500-0055-5555-5559, 340000000000009", "{card}, {card}");
    check("on 2024-01-02 4111 1111 1111 1111", "on 2024-01-02 {card}");
    check("card_4111111111111111", "card_{card}");
    stays("4111111111111112");
    stays("a4111111111111111");
    stays("41111111111111110");
    stays("0.4111111111111111");
    stays("1700000000000000000");
    stays("1764354000123");
    stays("6f1c2d3e-0000-4abc-8def-0123456789ab");
    stays("4111  1111  1111  1111");
    assert!(is_card_number(4_111_111_111_111_111) && !is_card_number(4_111_111_111_111_112));
    assert!(!is_card_number(-4_111_111_111_111_111) && !is_card_number(i64::MAX) && !is_card_number(0));
}

#[test]
fn tokens() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl";
    check(jwt, "{token}");
    check(&format!("token={jwt};x"), "token={token};x");
    check(&format!("Bearer {jwt}"), "Bearer {token}");
    check("header: bearer abc123def456, next", "header: bearer {token}, next");
    check("AKIAIOSFODNN7EXAMPLE", "{token}");
    check("key AIzaSyA1234567890abcdefghijklmnopqrstuv!", "key {token}!");
    check("ghp_0123456789abcdefghijABCDEFGHIJ012345", "{token}");
    check("glpat-abcdefghij0123456789", "{token}");
    check("xoxb-123456789012-abcdefghijkl", "{token}");
    check("sk_live_0123456789abcdef", "{token}");
    stays("a bearer token is required");
    stays("eyJhbGciOiJIUzI1NiJ9");
    stays("AKIAIOSFODNN7EXAMPLEX");
    stays("AKIAIOSFODNN7example");
    stays("XAKIAIOSFODNN7EXAMPLE");
    stays("ghp_short and more text");
}

#[test]
fn private_keys() {
    let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----";
    check(&format!("a {key} b"), "a {private_key} b");
    check("-----BEGIN PRIVATE KEY-----\nMIIE", "{private_key}");
    stays("-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----");
}

#[test]
fn addresses() {
    check("jane.doe+x@example.com", "{email}");
    check("from <jane@mail.example.org>, to bob@b.de.", "from <{email}>, to {email}.");
    check("/u/jane%40example.com/x", "/u/{email}/x");
    check("user=jürgen@exämple.de", "user={email}");
    stays("@example.com");
    stays("a@b");
    stays("a@10.0.0.1");
    stays("100%40");
    stays("pkg@1.2.3");
    stays("com.example.Foo@1f2e3d4c");
}

#[test]
fn credentials() {
    check("postgres://joe:secret@db/shop", "postgres://{credentials}@db/shop");
    check("https://a:p@ss@host.example/x?to=b@c.de", "https://{credentials}@host.example/x?to={email}");
    check("see http://x/y, mail a@b.de", "see http://x/y, mail {email}");
    check("http://h/u/a@b.de", "http://h/u/{email}");
}

#[test]
fn overlapping_findings_hide_both() {
    let text = b"0123456789";
    let finding = |range, placeholder| Finding { range, placeholder };
    let mut out = Vec::new();
    assert_eq!(replace(text, &[finding(1..4, "{a}"), finding(3..6, "{b}"), finding(8..9, "{c}")], &mut out), 2);
    assert_eq!(out, b"0{a}67{c}9");
}

#[test]
fn a_glance_counts_in_every_place() {
    for length in 0..70 {
        for place in 0..length {
            let mut text = vec![b'.'; length];
            assert_eq!(Glance::at(&text), Glance::default());
            text[place] = b'7';
            assert_eq!(Glance::at(&text), Glance { digits: 1, ..Glance::default() });
            text[place] = b'@';
            assert_eq!(Glance::at(&text), Glance { has_at: true, ..Glance::default() });
        }
    }
}

#[test]
fn every_beginning_of_a_token_is_seen_in_every_place() {
    for (beginning, _) in token::KINDS {
        for length in token::BYTES_MIN..60 {
            for place in 0..=length - beginning.len() {
                let mut text = vec![b'.'; length];
                text[place..place + beginning.len()].copy_from_slice(beginning.as_bytes());
                assert!(Glance::at(&text).may_begin_token, "{beginning} at {place} of {length}");
            }
        }
    }
}

#[test]
fn every_beginning_is_known() {
    assert!(!format!("{:?}", token::Tokens::new()).contains("None"), "the list of beginnings compiles");
}
