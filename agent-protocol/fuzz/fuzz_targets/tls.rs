//! How a TLS stream is cut does not matter, and records follow each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::tls(data));
