//! Recorded conversations of HTTP/1: what is found in their bodies is what is written down beside them.
//!
//! Those of HTTP/2 are in `fixtures/http2`.

use std::{fmt::Write, fs, path::Path};

use super::{Asked, Content};
use crate::{
    fuzzing::sessions::{Fed, conversation},
    http1::{Requests, Responses},
    input::{Event, Input},
    session::{Facts, Side, Value},
};

fn line(said: &mut String, facts: &Facts) {
    if *facts == Facts::default() {
        return said.push_str(" nothing\n");
    }
    if let Some(name) = &facts.name {
        write!(said, " name={name:?}").expect("a string");
    }
    if let Some(outcome) = &facts.outcome {
        write!(said, " outcome={outcome:?}").expect("a string");
    }
    for (key, value) in &facts.attributes {
        match value {
            Value::String(value) => write!(said, " {key}={value:?}"),
            other => write!(said, " {key}={other:?}"),
        }
        .expect("a string");
    }
    said.push('\n');
}

/// What both parsers say, as `agent-core` uses them.
fn say(fed: &[Fed]) -> String {
    let (mut requests, mut responses, mut said) = (Requests::default(), Responses::default(), String::new());
    let (mut asked, mut failed): (Vec<Option<Asked>>, _) = (Vec::new(), false);
    for piece in fed {
        let (side, input) = match piece {
            Fed::Bytes(side, bytes) => (*side, Input::Bytes(bytes)),
            Fed::Gap(side, gap) => (*side, Input::Gap(*gap)),
        };
        if side == Side::Client {
            let mut events = Vec::new();
            requests.feed(input, &mut events);
            for event in events {
                match event {
                    Event::Head { head, .. } => {
                        responses.expect(&head.method);
                        asked.push(None);
                        writeln!(said, "> {} {}", head.method, head.path).expect("a string");
                    }
                    Event::Content(content) => {
                        let Content::Asked(found) = *content else { panic!("{content:?}") };
                        responses.expect_content();
                        line(&mut said, &found.facts());
                        *asked.last_mut().expect("a request") = Some(found);
                    }
                    Event::End { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        } else {
            let mut events = Vec::new();
            responses.feed(input, &mut events);
            for event in events {
                match event {
                    Event::Head { head, .. } => {
                        failed = head.status >= 400;
                        writeln!(said, "< {}", head.status).expect("a string");
                    }
                    Event::Content(content) => {
                        let Content::Answered(answered) = *content else { panic!("{content:?}") };
                        let asked = asked.last().and_then(Option::as_ref).expect("something was asked for");
                        line(&mut said, &asked.answer(&answered, failed));
                    }
                    Event::End { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    said
}

#[test]
fn recordings_say_what_was_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/content");
    let mut seen = 0;
    for path in fs::read_dir(folder).expect("fixtures/content").map(|entry| entry.expect("entry").path()) {
        if path.extension().is_none_or(|is| is != "session") {
            continue;
        }
        let fed = conversation(&fs::read_to_string(&path).expect("a recording"));
        let said = say(&fed);
        let expected = fs::read_to_string(path.with_extension("said")).unwrap_or_default();
        assert_eq!(said, expected, "{}: it said\n{said}", path.display());
        assert!(!said.contains("secret"), "{said}");
        let bytewise: Vec<_> = fed.into_iter().flat_map(bytes).collect();
        assert_eq!(say(&bytewise), expected, "{} byte by byte", path.display());
        seen += 1;
    }
    assert!(seen >= 8, "{seen} recordings");
}

fn bytes(piece: Fed) -> Vec<Fed> {
    match piece {
        Fed::Bytes(side, bytes) => bytes.into_iter().map(|byte| Fed::Bytes(side, vec![byte])).collect(),
        gap => vec![gap],
    }
}
