//! What is said of a statement is within its limits, and its text, read again, stays the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sql(data));
