//! Any bytes as both directions of a PostgreSQL connection. Seeds: `fixtures/postgres`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sessions::fuzz(data, agent_protocol::postgres::new));
