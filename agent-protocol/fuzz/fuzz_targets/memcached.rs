//! Any two directions of memcached: how they are cut does not matter, and offsets never pass the input.
//! Seeds: `fixtures/memcached`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sessions::fuzz(
    data,
    agent_protocol::memcached::new
));
