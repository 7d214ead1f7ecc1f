//! Any two directions of HTTP/2: how they are cut does not matter, and offsets never pass the input. Seeds: `fixtures/http2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sessions::fuzz(data, agent_protocol::http2::new));
