//! What is read from a `traceparent` can be written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::traceparent(data));
