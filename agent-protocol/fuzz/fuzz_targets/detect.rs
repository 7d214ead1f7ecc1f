//! A final verdict stays final. Seeds: `fixtures/http1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::detect(data));
