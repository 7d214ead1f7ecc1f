//! The kernel side, seen from the agent: whether this host can run it, loading, attaching, selecting, reading.
//!
//! The sole loader of the kernel programs and the sole reader of their maps.

pub mod attach;
pub mod btf;
pub mod budget;
pub mod load;
pub mod object;
pub mod preflight;
pub mod ring;
pub mod segments;
pub mod select;
pub mod stats;
pub mod tls;
