//! Bodies, however cut and with whatever gaps: nothing is told that depends on the cuts, or is longer than it may be. Seeds:
//! `fixtures/content`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::content(data));
