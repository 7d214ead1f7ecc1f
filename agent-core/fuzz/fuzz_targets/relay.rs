//! No span of a relayed request is lost, whatever the bytes, and what comes out can be read.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_core::relay::fuzzing::relay(data));
