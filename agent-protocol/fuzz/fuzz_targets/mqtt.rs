//! Any two directions of MQTT: how they are cut does not matter, and offsets never pass the input. Seeds: `fixtures/mqtt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sessions::fuzz(data, agent_protocol::mqtt::new));
