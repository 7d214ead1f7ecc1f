//! Requests, however cut and with whatever gaps. Seeds: `fixtures/http1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::http1_requests(data));
