//! A conversation in Cassandra's protocol, however cut and with whatever gaps.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    agent_protocol::fuzzing::sessions::fuzz(data, || Box::<agent_protocol::cassandra::Cassandra>::default());
});
