//! Any bytes as both directions of a MySQL connection. Seeds: `fixtures/mysql`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sessions::fuzz(data, agent_protocol::mysql::new));
