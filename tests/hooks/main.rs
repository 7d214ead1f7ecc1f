//! The kernel side hook by hook: what happens where one cannot be had, and each way of attaching.
//!
//! Needs root. Run with `-- --test-threads=1`.

mod attach_ladder;
mod closes;
mod devices;
mod mutation;
mod process;
mod records;
mod reload;
mod sched;
mod sockets;
mod unix_reuse;
