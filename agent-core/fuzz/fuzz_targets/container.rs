//! Paths of cgroups, references of images, names of pods: nothing is made up, and nothing panics.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_core::container::fuzz(data));
