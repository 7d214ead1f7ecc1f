//! Any two directions of NATS: how they are cut does not matter, and offsets never pass the input. Seeds: `fixtures/nats`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sessions::fuzz(data, agent_protocol::nats::new));
