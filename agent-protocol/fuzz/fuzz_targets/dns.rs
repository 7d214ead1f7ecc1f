//! What a prefix of a DNS message says, the whole says too.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::dns(data));
