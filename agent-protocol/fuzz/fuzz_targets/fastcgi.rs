//! Any bytes as both directions of a FastCGI connection. Seeds: `fixtures/fastcgi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_protocol::fuzzing::sessions::fuzz(data, agent_protocol::fastcgi::new));
