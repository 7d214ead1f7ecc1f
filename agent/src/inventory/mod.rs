//! Facts about what runs on the host, gathered from outside the kernel programs.

pub mod process;
pub mod reader;
